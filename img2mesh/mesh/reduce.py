"""Fewer faces, or more even ones, without a fold: what went wrong in a place is undone there and not tried again."""

import importlib.util
import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

from img2mesh.errors import InputError
from img2mesh.mesh.intersections import intersecting_faces
from img2mesh.mesh.topology import Mesh, defects, degenerate_faces, face_cross, inward_faces, weld

Faces = npt.NDArray[np.bool_]
# From a mesh, a budget and the faces that may change to another mesh, perhaps an unsound one.
Step = Callable[[Mesh, int, Faces], Mesh]

# A step leaves these shares of the faces, the second where the first folds: what has to be undone is then little, and fine.
_STEP_SHARES = (0.4, 0.7)
_ROUNDS = 5
_LEAST_GAIN = 0.9
# Around a face that is wrong, everything within this share of its size stays as it was; twice as far in each next round.
_FIRST_REACH = 1.0
# Barycentric coordinates of points all over a triangle.
_SPREAD_STEPS = 4
_SPREAD = np.array([(i, j, _SPREAD_STEPS - i - j) for i in range(5) for j in range(5 - i)]) / _SPREAD_STEPS
# Quadrics hold a vertex this firmly where its surface is flat; without, noise decides where it goes.
_QUALITY = 0.3
_REMESH_ITERATIONS = 4
# Remeshing starts from so many times the budget.
_REMESH_FROM = 2
# Remeshing ends near its edge length, not at it.
_REMESH_TRIES = 2


def reduced(mesh: Mesh, faces: int) -> tuple[Mesh, str]:
    """A sound mesh of at most `faces` triangles if any was found, else of as few as were; and the library that made it.

    Args:
        mesh: Sound.
    """
    if len(mesh.faces) <= faces:
        return mesh, "none"
    if importlib.util.find_spec("pymeshlab"):
        return _in_steps(mesh, faces, _decimate_with_pymeshlab), "pymeshlab"
    for candidate in _decimations_with_open3d(mesh, faces):
        rounded = in_single_precision(weld(candidate))
        if not faults(rounded):
            return rounded, "open3d"
    return mesh, "none"


def remeshed(mesh: Mesh, faces: int) -> tuple[Mesh, str]:
    """A sound mesh of even triangles, about `faces` of them; and the library that made it.

    Where no even mesh is free of folds, it is the one that `reduced` finds.

    Raises:
        InputError: The library is not installed.
    """
    if not importlib.util.find_spec("pymeshlab"):
        raise InputError("isotropic remeshing needs pymeshlab: pip install 'img2mesh[pymeshlab]'")
    finer = _in_steps(mesh, _REMESH_FROM * faces, _decimate_with_pymeshlab)
    even = _without_folds(finer, faces, _remesh_with_pymeshlab)
    return even or _in_steps(finer, faces, _decimate_with_pymeshlab), "pymeshlab"


def in_single_precision(mesh: Mesh) -> Mesh:
    """The mesh as files will hold it, so that what is checked here is what is read there."""
    return Mesh(vertices=mesh.vertices.astype(np.float32).astype(np.float64), faces=mesh.faces)


def faults(mesh: Mesh) -> tuple[str, ...]:
    """What is wrong with the mesh, as `defects` says it, and whether it passes through itself."""
    found = defects(mesh)
    folded = int(intersecting_faces(mesh).sum()) if not found else 0
    return (*found, f"{folded} faces that pass through others") if folded else found


def _in_steps(mesh: Mesh, faces: int, step: Step) -> Mesh:
    while len(mesh.faces) > faces:
        budgets = dict.fromkeys(max(faces, int(share * len(mesh.faces))) for share in _STEP_SHARES)
        smaller = next((result for budget in budgets if (result := _without_folds(mesh, budget, step))), None)
        if smaller is None:
            break
        mesh = smaller
    return mesh


def _without_folds(mesh: Mesh, faces: int, step: Step) -> Mesh | None:
    """The step's result, with the surroundings of every fold as they were; None if that does not end."""
    free = np.ones(len(mesh.faces), dtype=np.bool_)
    reach = _FIRST_REACH
    for _ in range(_ROUNDS):
        result = in_single_precision(weld(step(mesh, faces, free)))
        wrong = _wrong_faces(result)
        if not wrong.any():
            # What is left of the budget beside the faces that stay may be too little to be worth another step.
            return None if defects(result) or len(result.faces) > max(faces, _LEAST_GAIN * len(mesh.faces)) else result
        free &= ~_around(mesh, result, wrong, reach)
        reach *= 2
    return None


def _wrong_faces(mesh: Mesh) -> Faces:
    degenerate = degenerate_faces(mesh)
    # Where a face has no area nothing can be said of what passes through it.
    return degenerate if degenerate.any() else intersecting_faces(mesh) | inward_faces(mesh)


def _around(mesh: Mesh, result: Mesh, wrong: Faces, reach: float) -> Faces:
    """The faces of the mesh that have a corner near a wrong face of the result."""
    corners = result.vertices[result.faces[wrong]]
    longest = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2).max(axis=1)
    points = np.einsum("pc,fck->fpk", _SPREAD, corners).reshape(-1, 3)
    radii = np.repeat(reach * longest / _SPREAD_STEPS, len(_SPREAD))
    near = cKDTree(mesh.vertices).query_ball_point(points, radii)
    marked = np.zeros(len(mesh.vertices), dtype=np.bool_)
    marked[np.unique(np.concatenate([np.asarray(found, dtype=np.int64) for found in near]))] = True
    return np.asarray(marked[mesh.faces].any(axis=1))


def _in_pymeshlab(mesh: Mesh, free: Faces) -> Any:
    """The mesh with its free faces selected. GPL-3.0 code is loaded here and nowhere else."""
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces.astype(np.int32), f_scalar_array=free.astype(np.float64)))
    meshes.compute_selection_by_condition_per_face(condselect="fq > 0.5")
    return meshes


def _out_of_pymeshlab(meshes: Any) -> Mesh:
    result = meshes.current_mesh()
    return Mesh(vertices=result.vertex_matrix().astype(np.float64), faces=result.face_matrix().astype(np.int64))


def _decimate_with_pymeshlab(mesh: Mesh, faces: int, free: Faces) -> Mesh:
    """Quadric edge collapse that keeps the topology."""
    meshes = _in_pymeshlab(mesh, free)
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=max(4, faces - int((~free).sum())),
        qualitythr=_QUALITY,
        preservenormal=True,
        preservetopology=True,
        selected=True,
    )
    return _out_of_pymeshlab(meshes)


def _remesh_with_pymeshlab(mesh: Mesh, faces: int, free: Faces) -> Mesh:
    """Splits, collapses, flips and slides until every edge has about the length that the budget asks for."""
    import pymeshlab

    areas = np.linalg.norm(face_cross(mesh), axis=1) / 2
    budget = max(4, faces - int((~free).sum()))
    length = math.sqrt(4 * float(areas[free].sum()) / (math.sqrt(3) * budget))
    for _ in range(_REMESH_TRIES):
        meshes = _in_pymeshlab(mesh, free)
        meshes.meshing_isotropic_explicit_remeshing(
            iterations=_REMESH_ITERATIONS, targetlen=pymeshlab.PureValue(length), selectedonly=True
        )
        result = _out_of_pymeshlab(meshes)
        if len(result.faces) <= faces:
            break
        length *= 1.01 * math.sqrt(len(result.faces) / faces)
    return result


def _decimations_with_open3d(mesh: Mesh, faces: int) -> Iterator[Mesh]:
    """Ever more careful reductions."""
    import open3d

    legacy = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(mesh.vertices), open3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    for budget in (faces, 2 * faces, 4 * faces):
        if budget < len(mesh.faces):
            result = legacy.simplify_quadric_decimation(budget)
            yield Mesh(vertices=np.asarray(result.vertices).copy(), faces=np.asarray(result.triangles).astype(np.int64))
