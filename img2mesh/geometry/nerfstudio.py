"""Views as nerfstudio reads them: pictures beside a `transforms.json`, which its viewer opens and its methods train on."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from img2mesh.geometry.cameras import Cameras
from img2mesh.geometry.views import Views

FILE = "transforms.json"
# Our world is +y up, nerfstudio's +z up.
_Z_UP_FROM_Y_UP = torch.tensor([[1.0, 0.0, 0.0], [0.0, 0.0, -1.0], [0.0, 1.0, 0.0]])
_OPENGL_FROM_OPENCV = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
_MODELS = {"perspective": "OPENCV", "orthographic": "ORTHOPHOTO"}


def write_nerfstudio(views: Views, names: Sequence[str], folder: Path, *, up: Literal["y", "z"] = "y") -> None:
    """Write `transforms.json`, `images/<name>.png` with alpha, and `normals/<name>.png` where there are normals.

    nerfstudio ignores `normal_path`; `img2mesh reconstruct` reads the folder with it.

    Args:
        names: One a view, each the name of a file.
        folder: Made if it is not there.
        up: The axis of the views' world that points up; written, +z does.
    """
    turn = _Z_UP_FROM_Y_UP if up == "y" else torch.eye(3)
    for part in ("images", "normals"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    frames = []
    for view, name in enumerate(names):
        picture = Path("images", f"{name}.png")
        _save(_straight(views, view), folder / picture)
        frame = {"file_path": picture.as_posix(), **_intrinsics(views.cameras, view)}
        frame["transform_matrix"] = _pose(views.cameras, view, turn)
        if bool(views.normals[view].any()):
            normals = Path("normals", f"{name}.png")
            _save(torch.einsum("ij,jhw->ihw", turn, views.normals[view].cpu()) / 2 + 0.5, folder / normals)
            frame["normal_path"] = normals.as_posix()
        frames.append(frame)
    document = {"camera_model": _MODELS[views.cameras.projection], "orientation_override": "none", "frames": frames}
    (folder / FILE).write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def _straight(views: Views, view: int) -> Float[Tensor, "4 height width"]:
    """RGBA with straight alpha; colours of views are over white."""
    alpha = views.alpha[view].clamp(0, 1).cpu()
    rgb = (views.rgb[view].cpu() - (1 - alpha)) / alpha.clamp(min=1e-3)
    return torch.cat([torch.where(alpha > 0, rgb, 1.0), alpha[None]])


def _intrinsics(cameras: Cameras, view: int) -> dict[str, Any]:
    focal, (x, y) = float(cameras.focal_px[view]), cameras.centre_px[view].tolist()
    return {"fl_x": focal, "fl_y": focal, "cx": x, "cy": y, "w": cameras.width_px, "h": cameras.height_px}


def _pose(cameras: Cameras, view: int, turn: Float[Tensor, "3 3"]) -> list[list[float]]:
    pose = cameras.world_from_camera[view].cpu() @ _OPENGL_FROM_OPENCV
    pose[:3] = turn @ pose[:3]
    rows: list[list[float]] = pose.tolist()
    return rows


def _save(image: Float[Tensor, "channel height width"], path: Path) -> None:
    pixels = (image.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).numpy()
    Image.fromarray(np.ascontiguousarray(pixels)).save(path)
