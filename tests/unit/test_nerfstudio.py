"""Views in nerfstudio's format, and its training as another means of fitting, without nerfstudio."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from flows.cli import app
from img2mesh.data.posed import read_posed
from img2mesh.errors import InputError, NumericalError
from img2mesh.geometry.cameras import Cameras, orbit, project
from img2mesh.geometry.nerfstudio import write_nerfstudio
from img2mesh.geometry.views import Views
from img2mesh.neus.config import FitConfig
from img2mesh.neus.environment import VARIABLE
from img2mesh.neus.fit import fit

NAMES = ("a", "b", "c")
# Stands for the training: a ball, written where nerfstudio_side.py would write its field.
BALL = """
import sys, numpy as np
options = dict(zip(sys.argv[3::2], sys.argv[4::2]))
side = int(options["--resolution"])
assert options["--method"] == "neus" and options["--seed"] == "7"
z, y, x = np.meshgrid(*3 * [np.linspace(-1, 1, side)], indexing="ij")
np.savez(sys.argv[2] + "/result.npz", sdf=(np.sqrt(x**2 + y**2 + z**2) - 0.5).astype(np.float32))
"""


def three_views(cameras: Cameras) -> Views:
    line = torch.arange(32) + 0.5
    y, x = torch.meshgrid(line, line, indexing="ij")
    alpha = (((x - 16).abs() < 9) & ((y - 14).abs() < 7)).float().expand(3, -1, -1).contiguous()
    normals = -cameras.world_from_camera[:, :3, 2][:, :, None, None] * alpha[:, None]
    rgb = torch.tensor([0.8, 0.2, 0.4])[None, :, None, None] * alpha[:, None] + 1 - alpha[:, None]
    return Views(cameras=cameras, rgb=rgb, alpha=alpha, normals=normals)


def cameras_of(projection: str) -> Cameras:
    cameras = orbit((0.0, 70.0, 200.0), size_px=32, elevation_deg=20.0)
    return (
        cameras if projection == "orthographic" else replace(cameras, projection="perspective", focal_px=cameras.focal_px * 2)
    )


@pytest.mark.parametrize("projection", ["orthographic", "perspective"])
def test_written_views_are_read_back_turned_upright(tmp_path: Path, projection: str) -> None:
    views = three_views(cameras_of(projection))
    write_nerfstudio(views, NAMES, tmp_path)
    posed = read_posed(tmp_path)
    assert (posed.names, posed.up) == (NAMES, "z")
    assert posed.views.cameras.projection == projection
    turn = torch.tensor([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
    points = torch.tensor([[0.1, 0.2, 0.3], [-0.2, 0.1, 0.0]]).expand(3, -1, -1)
    seen, depth = project(views.cameras, points)
    again, depth_again = project(posed.views.cameras, points @ turn.T)
    # The reader cuts a window about the object: pixels differ by one shift a view.
    shift = again - seen
    torch.testing.assert_close(shift[:, 0], shift[:, 1], atol=1e-4, rtol=0)
    torch.testing.assert_close(depth_again, depth, atol=1e-5, rtol=0)
    middle = posed.views.alpha.shape[-1] // 2
    expected = views.normals[:, :, 14, 16] @ turn.T
    torch.testing.assert_close(posed.views.normals[:, :, middle, middle], expected, atol=0.02, rtol=0)


def fake_nerfstudio(folder: Path, script: str) -> Path:
    program = folder / "python"
    (folder / "script.py").write_text(script)
    # As nerfstudio's Python is called: -I SCRIPT VIEWS OUT --option value ...
    program.write_text(f'#!/bin/sh\nshift 2\nexec {sys.executable} {folder / "script.py"} "$@"\n')
    program.chmod(0o755)
    return program


def test_the_field_that_nerfstudio_trains_is_the_surface(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, str(fake_nerfstudio(tmp_path, BALL)))
    surface = fit(three_views(cameras_of("orthographic")), FitConfig(method="nerfstudio-neus", resolutions=(40,)), seed=7)
    volume = float((surface.sdf < 0).sum()) * (2 / 39) ** 3
    assert volume == pytest.approx(4 / 3 * torch.pi * 0.5**3, rel=0.05)


@pytest.mark.parametrize(
    ("script", "message"),
    [("raise SystemExit('no memory')", "nerfstudio ended with 1: no memory"), (BALL.replace("- 0.5", "+ 2"), "0%")],
)
def test_a_training_that_fails_is_numerical(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str, message: str) -> None:
    monkeypatch.setenv(VARIABLE, str(fake_nerfstudio(tmp_path, script)))
    with pytest.raises(NumericalError, match=message):
        fit(three_views(cameras_of("orthographic")), FitConfig(method="nerfstudio-neus", resolutions=(40,)), seed=7)


@pytest.mark.parametrize(
    ("word", "message"),
    [("nerfstudio", "run infra/nerfstudio.sh"), ("nerfacto", "unknown neus 'nerfacto': choose nerfstudio")],
)
@pytest.mark.parametrize("command", [["reconstruct", "views", "--out", "out"], ["submit", "pictures"]])
def test_neus_that_cannot_be_used_is_refused_in_one_line(
    command: list[str], word: str, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(VARIABLE, "/nowhere/python")
    result = CliRunner().invoke(app, [*command, "--neus", word])
    assert isinstance(result.exception, InputError)
    assert message in str(result.exception)
    assert "\n" not in str(result.exception)


def test_the_command_writes_views_inside_the_cube(tmp_path: Path) -> None:
    write_nerfstudio(three_views(cameras_of("perspective")), NAMES, tmp_path / "views")
    result = CliRunner().invoke(app, ["data", "nerfstudio", str(tmp_path / "views"), "--out", str(tmp_path / "out")])
    assert result.exit_code == 0, result.output
    assert len(read_posed(tmp_path / "out").names) == 3
