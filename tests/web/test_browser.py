"""`mesh.glb` in a browser looks as in our own renders."""

import math
import os
import subprocess
from pathlib import Path
from shutil import which

import numpy as np
import pytest
import torch
from PIL import Image

from img2mesh.geometry.cameras import Cameras, orbit
from img2mesh.geometry.views import Views
from img2mesh.mesh.clean import clean
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.export import write_files
from img2mesh.mesh.extract import extract
from img2mesh.mesh.render import render
from img2mesh.mesh.texture import bake
from img2mesh.mesh.uv import TexturedMesh, unwrap

SIDE_PX, FIELD_OF_VIEW_DEG, DISTANCE = 384, 12.0, 10.0
COLOURS = torch.tensor([[0.7, 0.2, 0.2], [0.7, 0.6, 0.2], [0.2, 0.6, 0.2], [0.2, 0.6, 0.7], [0.2, 0.2, 0.7], [0.6, 0.2, 0.7]])


def painted() -> TexturedMesh:
    """A body with one arm, high on its right: no two sides of it look alike."""
    line = np.linspace(-1, 1, 64)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    body = np.sqrt((x / 0.5) ** 2 + (y / 0.7) ** 2 + (z / 0.4) ** 2) * 0.4 - 0.4
    arm = np.sqrt((x - 0.55) ** 2 + (y - 0.35) ** 2 + z**2) - 0.2
    mesh = clean(extract(np.minimum(body, arm)), faces=3000, speck_share=0.01).mesh
    cameras = orbit(size_px=128)
    rgb = COLOURS[:, :, None, None].expand(-1, -1, 128, 128)
    views = Views(cameras=cameras, rgb=rgb, alpha=torch.ones(6, 128, 128), normals=torch.zeros(6, 3, 128, 128))
    config = ExportConfig(texture_px=512, compensate=False)
    return bake(unwrap(mesh, 512), views, None, config)


def camera() -> Cameras:
    """That of the page: 30 degrees to the right of the front and 20 degrees up."""
    [place] = orbit((30.0,), size_px=SIDE_PX, elevation_deg=20.0).world_from_camera.double()
    pose = place.clone()
    pose[:3, 3] = -DISTANCE * pose[:3, 2]
    return Cameras(
        projection="perspective",
        world_from_camera=pose[None].float(),
        focal_px=torch.tensor([SIDE_PX / 2 / math.tan(math.radians(FIELD_OF_VIEW_DEG) / 2)]),
        centre_px=torch.full((1, 2), SIDE_PX / 2),
        width_px=SIDE_PX,
        height_px=SIDE_PX,
    )


@pytest.mark.slow
@pytest.mark.browser
def test_model_viewer_shows_what_we_render(tmp_path: Path, tools: Path) -> None:
    textured = painted()
    glb, shot = tmp_path / "mesh.glb", tmp_path / "shot.png"
    glb.write_bytes(write_files(textured, ["glb"], {"tool": "test"})["mesh.glb"])
    script = Path(__file__).with_name("shot.cjs")
    arguments = [str(which("chromium")), glb, shot, str(SIDE_PX), str(FIELD_OF_VIEW_DEG), str(DISTANCE)]
    environment = {**os.environ, "NODE_PATH": str(tools / "node_modules")}
    subprocess.run(["node", script, *arguments], env=environment, check=True, timeout=400)
    seen = np.asarray(Image.open(shot).convert("RGB")).astype(float) / 255
    ours = render(textured, camera())
    theirs = np.abs(seen - 1).max(axis=2) > 0.03
    mine = ours.alpha[0] > 0.5
    assert (theirs & mine).sum() / (theirs | mine).sum() > 0.97
    inner = mine & theirs & (ours.alpha[0] > 0.99)
    # The page lights the mesh: colours differ by the light, not by their kind.
    difference = np.abs(seen - ours.rgb[0])[inner]
    assert difference.mean() < 0.15
    assert [np.corrcoef(seen[inner][:, c], ours.rgb[0][inner][:, c])[0, 1] > 0.8 for c in range(3)] == [True] * 3
