"""Extraction and repair against shapes whose volume, topology and defects are known."""

import importlib.util
import math

import numpy as np
import numpy.typing as npt
import pytest

from img2mesh.errors import InputError, NumericalError
from img2mesh.geometry.cameras import orbit
from img2mesh.mesh.clean import Silhouette, clean, drop_floating, drop_specks, levels
from img2mesh.mesh.extract import extract, march_tetrahedra
from img2mesh.mesh.intersections import intersecting_faces
from img2mesh.mesh.reduce import faults
from img2mesh.mesh.topology import (
    Mesh,
    component_volumes,
    defects,
    euler_number,
    face_components,
    face_cross,
    vertex_normals,
    weld,
)

Grid = npt.NDArray[np.float64]


def axes(size: int) -> tuple[Grid, Grid, Grid]:
    """World x, y, z of the corners of a [z, y, x] grid."""
    line = np.linspace(-1, 1, size)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    return x, y, z


def ball(size: int, centre: tuple[float, float, float], radius: float) -> Grid:
    x, y, z = axes(size)
    return np.sqrt((x - centre[0]) ** 2 + (y - centre[1]) ** 2 + (z - centre[2]) ** 2) - radius


def torus(size: int) -> Grid:
    x, y, z = axes(size)
    return np.sqrt((np.sqrt(x**2 + z**2) - 0.55) ** 2 + y**2) - 0.22


def volume(mesh: Mesh) -> float:
    return float(component_volumes(mesh, face_components(mesh)).sum())


def test_sphere_has_its_radius_place_and_volume() -> None:
    mesh = extract(ball(48, (0.2, 0.1, -0.3), 0.5))
    distances = np.linalg.norm(mesh.vertices - [0.2, 0.1, -0.3], axis=1)
    assert np.abs(distances - 0.5).max() < 0.002
    assert volume(mesh) == pytest.approx(4 / 3 * math.pi * 0.5**3, rel=0.01)
    assert euler_number(mesh) == 2
    assert defects(mesh) == ()


def test_faces_and_normals_point_outward() -> None:
    mesh = extract(ball(32, (0, 0, 0), 0.6))
    centres = mesh.vertices[mesh.faces].mean(axis=1)
    assert (np.einsum("ij,ij->i", face_cross(mesh), centres) > 0).all()
    radial = mesh.vertices / np.linalg.norm(mesh.vertices, axis=1, keepdims=True)
    assert np.einsum("ij,ij->i", vertex_normals(mesh), radial).min() > 0.99


def test_torus_keeps_its_hole_through_decimation() -> None:
    mesh = extract(torus(40))
    assert euler_number(mesh) == 0
    cleaned = clean(mesh, faces=800, speck_share=0.01).mesh
    assert len(cleaned.faces) <= 800
    assert euler_number(cleaned) == 0
    assert volume(cleaned) == pytest.approx(2 * math.pi**2 * 0.55 * 0.22**2, rel=0.04)


def test_tetrahedra_give_the_same_solid() -> None:
    grid = ball(24, (0, 0, 0), 0.7)
    mesh = march_tetrahedra(grid)
    spacing = 2 / 23
    assert euler_number(mesh) == 2
    assert defects(mesh) == ()
    assert volume(mesh) * spacing**3 == pytest.approx(4 / 3 * math.pi * 0.7**3, rel=0.02)


def test_a_solid_that_reaches_the_border_is_closed() -> None:
    mesh = extract(np.full((12, 12, 12), -0.1))
    assert defects(mesh) == ()
    assert np.abs(mesh.vertices).max() < 1 + 2 / 11


@pytest.mark.parametrize("value", [1.0, np.nan])
def test_an_empty_or_broken_field_is_refused(value: float) -> None:
    with pytest.raises(NumericalError, match=r"empty|finite"):
        extract(np.full((8, 8, 8), value))


def test_distances_of_exactly_zero_leave_no_degenerate_faces() -> None:
    x, y, z = axes(17)
    assert defects(extract(np.maximum(np.maximum(abs(x), abs(y)), abs(z)) - 0.5)) == ()


def test_specks_and_hollows_go_and_large_parts_stay() -> None:
    hollow = np.maximum(ball(48, (-0.3, 0, 0), 0.5), -ball(48, (-0.3, 0, 0), 0.25))
    field = np.minimum(np.minimum(hollow, ball(48, (0.6, 0, 0), 0.3)), ball(48, (0.6, 0.7, 0.6), 0.07))
    mesh = drop_specks(weld(extract(field)), 0.02)
    volumes = np.sort(component_volumes(mesh, face_components(mesh)))
    assert volumes == pytest.approx([4 / 3 * math.pi * 0.027, 4 / 3 * math.pi * 0.125], rel=0.03)


def test_a_speck_that_the_picture_shows_stays() -> None:
    field = np.minimum(ball(48, (0, 0, 0), 0.5), ball(48, (0.6, 0.7, 0.0), 0.07))
    alpha = np.zeros((64, 64), dtype=np.uint8)
    alpha[5:15, 45:57] = 255
    camera = orbit((0.0,), size_px=64)
    mesh = drop_specks(weld(extract(field)), 0.02, Silhouette(camera=camera, alpha=alpha))
    assert face_components(mesh).max() == 1
    assert face_components(drop_specks(mesh, 0.02, Silhouette(camera=camera, alpha=alpha[::-1]))).max() == 0


def test_without_pymeshlab_open3d_decimates(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    cleaned = clean(extract(ball(32, (0, 0, 0), 0.6)), faces=500, speck_share=0.01)
    assert cleaned.reduced_by == "open3d"
    assert len(cleaned.mesh.faces) <= 500
    assert defects(cleaned.mesh) == ()


def test_a_ball_stuck_through_a_ball_is_found_and_one_beside_it_is_not() -> None:
    one = extract(ball(20, (0, 0, 0), 0.5))
    for offset, folded in ((0.6, True), (1.1, False)):
        both = Mesh(
            vertices=np.concatenate([one.vertices, one.vertices + np.array([offset, 0.013, 0.007])]),
            faces=np.concatenate([one.faces, one.faces + len(one.vertices)]),
        )
        assert bool(intersecting_faces(both).any()) is folded
    assert not intersecting_faces(one).any()


def test_faces_that_meet_in_a_vertex_and_cross_are_found() -> None:
    vertices = np.array([[0.0, 0, 0], [1, -0.5, 0], [1, 0.5, 0], [0.5, 0, -1], [0.5, 0, 1]])
    crossed = Mesh(vertices=vertices, faces=np.array([[0, 1, 2], [0, 3, 4]]))
    assert intersecting_faces(crossed).tolist() == [True, True]
    apart = Mesh(vertices=vertices * [1, 1, 1] + np.array([[0, 0, 0]] * 3 + [[-2, 0, 0]] * 2), faces=crossed.faces)
    assert not intersecting_faces(apart).any()


def fence(size: int = 96) -> Grid:
    """Slats of two voxels, crossed by thin rails, with rough sides."""
    x, y, z = axes(size)
    rough = 0.012 * np.sin(37 * y) * np.sin(41 * x)
    slats = np.maximum(np.abs((x * 6) % 1 - 0.5) / 6 - 0.035, np.abs(z) - 0.02 + rough)
    rails = np.maximum(np.abs(np.abs(y) - 0.4) - 0.04, np.abs(z - 0.03) - 0.02 + rough)
    return np.maximum(np.minimum(slats, rails), np.maximum(np.abs(x), np.abs(y)) - 0.8)


@pytest.mark.parametrize(("faces", "lost"), [(5000, 0.05), (1500, 0.25)])
def test_thin_slats_are_reduced_without_a_fold(faces: int, lost: float) -> None:
    whole = extract(fence())
    mesh = clean(whole, faces=faces, speck_share=0.001).mesh
    assert faults(mesh) == ()
    assert len(mesh.faces) <= faces
    assert volume(mesh) == pytest.approx(volume(whole), rel=lost)


def test_levels_of_detail_are_sound_and_ever_coarser() -> None:
    cleaned = clean(extract(torus(40)), faces=3000, speck_share=0.01)
    meshes = levels(cleaned, (1000, 300))
    assert list(meshes) == ["mesh", "mesh_lod1", "mesh_lod2"]
    assert [len(mesh.faces) <= budget for mesh, budget in zip(meshes.values(), (3000, 1000, 300), strict=True)] == [True] * 3
    assert [faults(mesh) for mesh in meshes.values()] == [(), (), ()]
    assert [euler_number(mesh) for mesh in meshes.values()] == [0, 0, 0]


def test_isotropic_triangles_are_even() -> None:
    mesh = clean(extract(torus(40)), faces=3000, speck_share=0.01, remesh="isotropic").mesh
    corners = mesh.vertices[mesh.faces]
    edges = np.linalg.norm(corners - np.roll(corners, 1, axis=1), axis=2)
    assert np.quantile(edges.max(axis=1) / edges.min(axis=1), 0.95) < 2
    assert 2000 < len(mesh.faces) <= 3300
    assert faults(mesh) == ()
    assert volume(mesh) == pytest.approx(2 * math.pi**2 * 0.55 * 0.22**2, rel=0.03)


def test_isotropic_remeshing_names_what_it_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match="pymeshlab"):
        clean(extract(ball(24, (0, 0, 0), 0.6)), faces=500, speck_share=0.01, remesh="isotropic")


def test_small_parts_apart_from_the_body_go_and_near_ones_stay() -> None:
    field = np.minimum(ball(96, (0, 0, 0), 0.5), np.minimum(ball(96, (0, 0.6, 0), 0.06), ball(96, (0.43, 0.43, 0), 0.06)))
    mesh = drop_floating(weld(extract(field)))
    assert face_components(mesh).max() == 0 or mesh.vertices[:, 1].max() < 0.56


def test_a_small_mesh_is_left_alone() -> None:
    mesh = extract(ball(12, (0, 0, 0), 0.5))
    cleaned = clean(mesh, faces=10_000, speck_share=0.01)
    assert cleaned.reduced_by == "none"
    assert len(cleaned.mesh.faces) == len(mesh.faces)


TETRAHEDRON = Mesh(
    vertices=np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]),
    faces=np.array([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]]),
)


# Puts the copy's origin on the apex.
ABOVE = np.array([0, 0, 1])


def joined(other: npt.NDArray[np.float64]) -> Mesh:
    """The tetrahedron and one with other vertices."""
    return Mesh(
        vertices=np.concatenate([TETRAHEDRON.vertices, other]), faces=np.concatenate([TETRAHEDRON.faces, TETRAHEDRON.faces + 4])
    )


def test_defects_are_named_and_counted() -> None:
    vertices, faces = TETRAHEDRON.vertices, TETRAHEDRON.faces
    assert defects(TETRAHEDRON) == ()
    assert defects(Mesh(vertices=vertices, faces=faces[1:])) == ("3 open edges",)
    assert defects(Mesh(vertices=vertices, faces=faces[:, ::-1])) == ("1 components wound inward",)
    flipped = np.concatenate([faces[:1, ::-1], faces[1:]])
    assert defects(Mesh(vertices=vertices, faces=flipped)) == ("3 edges between faces of opposite winding",)
    assert defects(joined(vertices + ABOVE)) == ("1 vertices where surfaces touch",)
    assert "degenerate" in defects(Mesh(vertices=vertices * [1, 1, 1e-14], faces=faces))[0]
    assert defects(Mesh(vertices=vertices, faces=faces[:0])) == ("no faces",)


def test_welding_joins_copies_and_drops_unused_vertices() -> None:
    soup = Mesh(
        vertices=np.concatenate([TETRAHEDRON.vertices[TETRAHEDRON.faces].reshape(-1, 3), [[9.0, 9, 9]]]),
        faces=np.arange(12).reshape(4, 3),
    )
    welded = weld(soup)
    assert len(welded.vertices) == 4
    assert defects(soup) == ()


def test_what_cannot_be_repaired_is_refused_by_name() -> None:
    with pytest.raises(NumericalError, match="1 vertices where surfaces touch"):
        clean(joined(TETRAHEDRON.vertices + ABOVE), faces=100, speck_share=0.0)
