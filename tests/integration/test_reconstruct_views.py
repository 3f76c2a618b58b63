"""`img2mesh reconstruct` on views whose solid is known, and on folders that are wrong."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from typer.testing import CliRunner

from flows.cli import app
from img2mesh.errors import InputError

SIDE = 96
# The object stands off the origin and is not of unit size.
CENTRE, RADIUS, HALF_HEIGHT = np.array([3.0, -1.0, 2.0]), 0.5, 1.0
Change = Callable[[Path], None]


def look_at(eye: np.ndarray) -> np.ndarray:
    """world_from_camera, OpenCV axes, towards the object."""
    forward = (CENTRE - eye) / np.linalg.norm(CENTRE - eye)
    right = np.cross(forward, [0.0, 1.0, 0.0])
    right /= np.linalg.norm(right)
    pose = np.eye(4)
    pose[:3] = np.stack([right, np.cross(forward, right), forward, eye], axis=1)
    return pose


def write_views(folder: Path, projection: str, count: int = 8) -> list[dict[str, Any]]:
    """A red capsule about +y seen from a circle, as PNGs and `cameras.json`."""
    capsule = trimesh.creation.capsule(height=2 * (HALF_HEIGHT - RADIUS), radius=RADIUS, count=(48, 48))
    capsule.apply_transform(trimesh.transformations.rotation_matrix(math.pi / 2, [1, 0, 0]))
    capsule.apply_translation(CENTRE - capsule.bounds.mean(axis=0))
    import open3d

    scene = open3d.t.geometry.RaycastingScene()
    core: Any = open3d.core
    scene.add_triangles(core.Tensor(capsule.vertices.astype(np.float32)), core.Tensor(capsule.faces.astype(np.uint32)))
    focal = SIDE * 0.36 if projection == "orthographic" else SIDE * 1.4
    folder.mkdir()
    rows = []
    for view in range(count):
        angle = 2 * math.pi * view / count
        pose = look_at(CENTRE + 4 * np.array([math.sin(angle), 0.35 * (view % 2), math.cos(angle)]))
        x, y = np.meshgrid(*2 * [(np.arange(SIDE) + 0.5 - SIDE / 2) / focal])
        plane = np.stack([x, y, np.ones_like(x)], axis=-1)
        if projection == "orthographic":
            starts = pose[:3, 3] + plane[..., :2] @ pose[:3, :2].T
            towards = np.broadcast_to(pose[:3, 2], starts.shape)
        else:
            towards = plane @ pose[:3, :3].T
            starts = np.broadcast_to(pose[:3, 3], towards.shape)
        hit = np.isfinite(
            scene.cast_rays(core.Tensor(np.concatenate([starts, towards], -1).astype(np.float32)))["t_hit"].numpy()
        )
        rgba = np.where(hit[..., None], np.array([200, 40, 30, 255]), 0).astype(np.uint8)
        Image.fromarray(rgba).save(folder / f"{view}.png")
        rows.append(
            {
                "name": f"view {view}",
                "projection": projection,
                "world_from_camera": pose.tolist(),
                "focal_px": focal,
                "centre_px": [SIDE / 2, SIDE / 2],
                "width_px": SIDE,
                "height_px": SIDE,
                "image": f"{view}.png",
            }
        )
    (folder / "cameras.json").write_text(json.dumps({"views": rows}))
    return rows


def reconstruct(folder: Path, out: Path) -> trimesh.Trimesh:
    result = CliRunner().invoke(
        app, ["reconstruct", str(folder), "--out", str(out), "--formats", "glb,ply", "--faces", "4000", "--texture", "256"]
    )
    assert result.exit_code == 0, result.output
    return trimesh.load(out / "mesh.ply", force="mesh")


def volume() -> float:
    return math.pi * RADIUS**2 * 2 * (HALF_HEIGHT - RADIUS) + 4 / 3 * math.pi * RADIUS**3


@pytest.mark.slow
@pytest.mark.parametrize("projection", ["orthographic", "perspective"])
def test_a_capsule_comes_back_at_its_place_and_size(tmp_path: Path, projection: str) -> None:
    write_views(tmp_path / "views", projection)
    mesh = reconstruct(tmp_path / "views", tmp_path / "out")
    assert mesh.is_watertight
    assert mesh.volume == pytest.approx(volume(), rel=0.05)
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), CENTRE, atol=0.04)
    np.testing.assert_allclose(mesh.extents, [2 * RADIUS, 2 * HALF_HEIGHT, 2 * RADIUS], atol=0.08)
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert report["scores"]["silhouette_iou_worst"] > 0.95
    assert report["scores"]["psnr_db"] > 25
    assert np.asarray(mesh.visual.vertex_colors)[:, 0].mean() == pytest.approx(200, abs=12)
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"mesh.glb", "mesh.ply", "preview.png", "report.json"}


@pytest.mark.slow
def test_nerfstudio_cameras_give_the_same_mesh_and_an_upright_glb(tmp_path: Path) -> None:
    rows = write_views(tmp_path / "views", "perspective")
    frames = [
        {"file_path": row["image"], "transform_matrix": (np.array(row["world_from_camera"]) @ np.diag([1, -1, -1, 1])).tolist()}
        for row in rows
    ]
    (tmp_path / "views" / "cameras.json").unlink()
    document = {"w": SIDE, "h": SIDE, "fl_x": SIDE * 1.4, "fl_y": SIDE * 1.4, "frames": frames}
    (tmp_path / "views" / "transforms.json").write_text(json.dumps(document))
    mesh = reconstruct(tmp_path / "views", tmp_path / "out")
    np.testing.assert_allclose(mesh.bounds.mean(axis=0), CENTRE, atol=0.04)
    upright = trimesh.load(tmp_path / "out" / "mesh.glb", force="mesh")
    np.testing.assert_allclose(upright.bounds.mean(axis=0), CENTRE[[0, 2, 1]] * [1, 1, -1], atol=0.04)


def rewritten(change: Callable[[dict[str, Any]], None]) -> Change:
    def apply(folder: Path) -> None:
        document = json.loads((folder / "cameras.json").read_text())
        change(document)
        (folder / "cameras.json").write_text(json.dumps(document))

    return apply


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda folder: (folder / "cameras.json").unlink(), "neither cameras.json nor transforms.json"),
        (lambda folder: (folder / "cameras.json").write_text("{"), "cameras.json"),
        (rewritten(lambda d: d["views"].__delitem__(slice(2, None))), "has 2 views: give 3 to 64"),
        (rewritten(lambda d: d["views"][1].update(focal_px=-1.0)), "views.1.focal_px"),
        (rewritten(lambda d: d["views"][1].update(projection="orthographic")), "differ in projection or size"),
        (lambda folder: (folder / "1.png").unlink(), "1.png is missing"),
        (lambda folder: (folder / "1.png").write_bytes(b"no picture"), "1.png is not a readable picture"),
        (lambda folder: Image.new("RGB", (SIDE, SIDE)).save(folder / "1.png"), "no alpha channel"),
        (lambda folder: Image.new("RGBA", (SIDE, SIDE)).save(folder / "1.png"), "transparent all over"),
        (lambda folder: Image.new("RGBA", (8, 8)).save(folder / "1.png"), "8 x 8 pixels, but its camera says 96 x 96"),
    ],
)
def test_a_wrong_folder_is_refused_in_one_line(tmp_path: Path, change: Change, message: str) -> None:
    write_views(tmp_path / "views", "perspective", count=3)
    change(tmp_path / "views")
    result = CliRunner().invoke(app, ["reconstruct", str(tmp_path / "views"), "--out", str(tmp_path / "out")])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert not (tmp_path / "out").exists()


def test_windows_keep_rays_where_they_were(tmp_path: Path) -> None:
    from img2mesh.data.posed import read_posed
    from img2mesh.geometry.cameras import project

    rows = write_views(tmp_path / "views", "perspective", count=4)
    views = read_posed(tmp_path / "views").views
    pixels, _ = project(views.cameras, torch.from_numpy(CENTRE).float().expand(4, 1, 3))
    for view, row in enumerate(rows):
        x, y = pixels[view, 0].long().tolist()
        assert views.alpha[view, y, x] == 1
        whole = np.asarray(Image.open(tmp_path / "views" / row["image"]))[..., 3] > 0
        assert views.alpha[view].sum().item() == pytest.approx(whole.sum())


def test_a_fit_without_a_surface_is_tried_again_with_the_next_seed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from img2mesh.errors import NumericalError
    from img2mesh.neus.surface import Surface

    tried: list[int] = []

    def failing_once(views: Any, config: Any, *, seed: int, keep: Path) -> Surface:
        tried.append(seed)
        if seed == 3:
            raise NumericalError("it exploded")
        line = torch.linspace(-1, 1, 24)
        z, y, x = torch.meshgrid(line, line, line, indexing="ij")
        return Surface(sdf=(x.square() + y.square() + z.square()).sqrt() - 0.6, inv_std=40.0)

    monkeypatch.setattr("flows.views.fit", failing_once)
    write_views(tmp_path / "views", "perspective", count=3)
    arguments = ["reconstruct", str(tmp_path / "views"), "--out", str(tmp_path / "out"), "--seed", "3", "--formats", "glb"]
    result = CliRunner().invoke(app, [*arguments, "--faces", "500", "--texture", "64"])
    assert result.exit_code == 0, result.output
    assert tried == [3, 4]
    assert json.loads((tmp_path / "out" / "report.json").read_text())["retries"] == ["seed 3: it exploded"]
