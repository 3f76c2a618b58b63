"""Simple solids to build things from, +y up."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import numpy.typing as npt
import trimesh
from trimesh import creation, transformations

# trimesh's own type leaves out what its meshes are called with here.
Solid = Any
Numbers = Sequence[float] | npt.NDArray[np.float64]
# Along x, y and z.
Place = Numbers


def box(size: Place, centre: Place, *, about_x: float = 0.0) -> Solid:
    """A box, leaning by an angle about x."""
    return leaning(creation.box(size), about_x).apply_translation(centre)


def cushion(size: Place, centre: Place, *, square: float = 4.0) -> Solid:
    """A superellipsoid: an ellipsoid at 2, nearer to a box above."""
    mesh: Solid = creation.icosphere(subdivisions=3)
    unit = mesh.vertices
    length = (np.abs(unit) ** square).sum(axis=1, keepdims=True) ** (1 / square)
    mesh.vertices = unit / length * np.array(size) / 2
    return mesh.apply_translation(centre)


def rod(start: Place, end: Place, radius: float, *, thinner: float = 1.0, corners: int = 12) -> Solid:
    """A round or cornered rod; its end has `thinner` times the radius of its start."""
    mesh: Solid = creation.cylinder(1.0, 1.0, sections=corners)
    if corners == 4:
        mesh.apply_transform(_rotation(math.pi / 4, (0, 0, 1)))
    vertices = mesh.vertices
    vertices[:, :2] *= radius * np.where(vertices[:, 2:] > 0, thinner, 1.0)
    mesh.vertices = vertices
    along = np.subtract(end, start)
    length = float(np.linalg.norm(along))
    mesh.vertices[:, 2] *= length
    return _aligned(mesh, along / length).apply_translation(np.add(start, end) / 2)


def turned(radii: Numbers, heights: Numbers, centre: Place = (0, 0, 0), *, square: float = 2.0) -> Solid:
    """A profile turned about the upright, from bottom to top; with `square` above 2 its rings are rounded squares."""
    profile = np.stack([[0.0, *radii, 0.0], [heights[0], *heights, heights[-1]]], axis=1)
    mesh: Solid = creation.revolve(profile, sections=28)
    turn = np.arctan2(mesh.vertices[:, 1], mesh.vertices[:, 0])
    wider = (np.abs(np.cos(turn)) ** square + np.abs(np.sin(turn)) ** square) ** (-1 / square)
    mesh.vertices[:, :2] *= wider[:, None]
    return leaning(mesh, -math.pi / 2).apply_translation(centre)


def arc(radius: float, thickness: float, centre: Place, *, start: float) -> Solid:
    """Half a ring of round rod that stands in the plane of x and y, from an angle on."""
    angles = start + np.linspace(0, math.pi, 13)
    path = np.stack([radius * np.cos(angles), radius * np.sin(angles), np.zeros_like(angles)], axis=1)
    mesh: Solid = trimesh.util.concatenate([rod(a, b, thickness, corners=6) for a, b in pairwise(path)])
    return _aligned(mesh, (0, 0, 1)).apply_translation(centre)


def hull(points: Sequence[Place]) -> Solid:
    """The convex hull of points."""
    return trimesh.convex.convex_hull(np.array(points))


def leaning(mesh: Solid, angle: float) -> Solid:
    """Turned about x, its top towards the front."""
    return mesh.apply_transform(_rotation(angle, (1, 0, 0)))


def _rotation(angle: float, axis: Place) -> np.ndarray:
    turn: Any = transformations.rotation_matrix
    matrix: np.ndarray = turn(angle, axis)
    return matrix


def _aligned(mesh: Solid, axis: Place) -> Solid:
    """With its z turned to an axis."""
    align: Any = trimesh.geometry.align_vectors
    return mesh.apply_transform(align((0, 0, 1), axis))
