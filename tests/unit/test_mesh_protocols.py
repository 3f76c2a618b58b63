"""Scores of solids whose distances and volumes are known."""

import json
from pathlib import Path

import numpy as np
import pytest
import trimesh
from typer.testing import CliRunner

from flows.cli import app
from img2mesh.metrics.protocols import (
    PROTOCOLS,
    parity_solid,
    score_mvdiffusion_plus_plus,
    score_spar3d,
    score_syncdreamer,
    score_visible,
    sync_points,
)
from img2mesh.metrics.statistics import estimate, paired
from img2mesh.metrics.visible import Triangles, carved, depth_maps, normalisation, visible_points, volume_iou


def triangles(mesh: trimesh.Trimesh) -> Triangles:
    return Triangles(vertices=np.asarray(mesh.vertices, np.float64), faces=np.asarray(mesh.faces, np.int64))


def box(*sides: float, shift: tuple[float, float, float] = (0, 0, 0)) -> Triangles:
    return triangles(trimesh.creation.box(extents=sides).apply_translation(shift))


def ball(radius: float) -> Triangles:
    return triangles(trimesh.creation.icosphere(subdivisions=4, radius=radius))


def without_lid(mesh: Triangles) -> Triangles:
    top = mesh.vertices[:, 1].max()
    return Triangles(vertices=mesh.vertices, faces=mesh.faces[~(mesh.vertices[mesh.faces][..., 1] == top).all(axis=1)])


def test_two_balls_differ_by_their_radii_and_their_volumes() -> None:
    maps = [depth_maps(ball(radius)) for radius in (0.5, 0.4)]
    points, smaller = (visible_points(m) for m in maps)
    assert np.linalg.norm(points, axis=1) == pytest.approx(0.5, abs=0.004)
    assert np.linalg.norm(smaller, axis=1) == pytest.approx(0.4, abs=0.004)
    # Voxels that the surface passes through count, which makes both radii larger by about half a voxel.
    assert volume_iou(*(carved(m) for m in maps)) == pytest.approx(((0.4 + 1 / 128) / (0.5 + 1 / 128)) ** 3, abs=0.01)
    assert volume_iou(parity_solid(ball(0.5)), parity_solid(ball(0.4))) == pytest.approx(0.512, abs=0.02)


def test_syncdreamer_keeps_the_common_frame() -> None:
    # Concentric, with the larger as the truth: 0.1 from each point to the other surface.
    scores = score_syncdreamer(ball(0.4), ball(0.5))
    assert scores["chamfer"] == pytest.approx(0.1, abs=0.005)
    assert scores["volume_iou"] == pytest.approx(0.512, abs=0.02)
    again = score_syncdreamer(ball(4.0), ball(5.0))
    assert again == pytest.approx(scores, abs=0.002)


def test_a_mesh_against_itself_is_perfect_under_every_protocol() -> None:
    cube = box(1, 0.6, 0.4)
    for name, protocol in PROTOCOLS.items():
        scores = protocol(cube, cube)
        assert scores["chamfer"] < (0.03 if name == "spar3d" else 1e-3), name
        assert scores.get("volume_iou", 1.0) > 0.99, name
        assert all(value > 0.99 for key, value in scores.items() if key.startswith("f_score")), name


def test_ours_ignores_place_and_size_and_measures_shape() -> None:
    # A thickness of 33 voxels puts both large faces in the middle of a voxel: 34 layers of 64.
    scores = score_visible(box(128, 128, 66, shift=(7, -2, 1)), box(1, 1, 1))
    assert scores["volume_iou"] == pytest.approx(34 / 64, abs=0.005)
    assert score_visible(box(3, 3, 3, shift=(7, -2, 1)), box(1, 1, 1))["volume_iou"] > 0.99


def test_a_shifted_cube_is_found_again_by_icp_and_not_without() -> None:
    cube, shifted = box(1, 0.8, 0.6), box(1, 0.8, 0.6, shift=(0.05, 0, 0))
    # Sides move along themselves, ends by 0.05: what overlaps is 0.95 of 1.05.
    assert score_syncdreamer(shifted, cube)["volume_iou"] == pytest.approx(0.95 / 1.05, abs=0.06)
    assert score_mvdiffusion_plus_plus(shifted, cube)["volume_iou"] > 0.97


def test_a_turned_mesh_is_found_again_by_search() -> None:
    shape = triangles(
        trimesh.util.concatenate(
            [
                trimesh.creation.box(extents=(1, 0.5, 0.3)),
                trimesh.creation.box(extents=(0.3, 0.4, 0.3)).apply_translation((0.3, 0.4, 0.1)),
            ]
        )
    )
    quarter = trimesh.transformations.rotation_matrix(np.pi / 2, (0, 1, 0))[:3, :3]
    scores = score_spar3d(Triangles(vertices=shape.vertices @ quarter.T, faces=shape.faces), shape)
    assert scores["chamfer"] < 0.03
    assert scores["f_score_0.1"] > 0.98


def test_an_open_box_is_hollow_and_equal_to_itself() -> None:
    crate = without_lid(box(1, 1, 1))
    solid = carved(depth_maps(crate.moved(*normalisation(crate))))
    # Four walls and a floor of one voxel, seen from outside and from within: a little over 5 of 64 layers.
    assert not solid[32, 40, 32]
    assert solid[[32, 0, 32], [0, 32, 32], [32, 32, 63]].all()
    assert 0.07 < solid.mean() < 0.09
    scores = score_visible(crate, crate)
    assert scores["volume_iou"] == 1.0
    assert score_visible(box(1, 1, 1), crate)["volume_iou"] < 0.09


def test_cameras_of_syncdreamer_see_the_top_and_not_the_bottom() -> None:
    points = sync_points(ball(0.5))
    assert points[:, 1].max() > 0.49
    assert points[:, 1].min() > -0.42
    assert points[:, [0, 2]].mean(axis=0) == pytest.approx([0, 0], abs=0.01)


def test_an_interval_holds_the_mean_and_shrinks_with_the_objects() -> None:
    few, many = estimate([0.0, 1.0] * 5), estimate([0.0, 1.0] * 500)
    assert few.mean == many.mean == 0.5
    assert few.low < 0.3
    assert few.high > 0.7
    # The standard error of a thousand coin tosses is 0.0158.
    assert (many.high - many.low) / 2 == pytest.approx(1.96 * 0.0158, abs=0.003)
    ours = [{"psnr": 20.0 + i + 0.5, "only_ours": 1.0} for i in range(10)]
    difference = paired(ours, [{"psnr": 20.0 + i} for i in range(10)])
    assert set(difference) == {"psnr"}
    assert difference["psnr"].low == difference["psnr"].high == pytest.approx(0.5)
    assert difference["psnr"].settled


def test_folders_are_matched_by_name_and_files_of_any_format(tmp_path: Path) -> None:
    for folder, suffix in (("ours", "obj"), ("true", "glb")):
        (tmp_path / folder).mkdir()
        for name, side in (("flat", 0.5), ("cube", 1.0)):
            trimesh.creation.box(extents=(1, side, 1)).export(tmp_path / folder / f"{name}.{suffix}")
    run = CliRunner().invoke
    result = run(app, ["eval", "mesh", str(tmp_path / "ours"), str(tmp_path / "true"), "--protocol", "img2mesh", "--json"])
    assert result.exit_code == 0, result.output
    document = json.loads(result.stdout)
    assert [pair["name"] for pair in document["pairs"]] == ["cube", "flat"]
    assert document["means"]["img2mesh"]["volume_iou"]["mean"] == 1.0
    (tmp_path / "true" / "flat.glb").unlink()
    failed = run(app, ["eval", "mesh", str(tmp_path / "ours"), str(tmp_path / "true")])
    assert "'flat'" in str(failed.exception)
