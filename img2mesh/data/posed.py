"""Posed pictures in a folder: `cameras.json` of ours, or `transforms.json` of nerfstudio.

`cameras.json` holds one object `{"views": [...]}`; a view is a `PosedPicture`. A normal map is an RGB picture of 8 or 16 bits
whose values run from -1 to 1, in the world's frame; where nothing is covered it says nothing.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, cast

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Float
from PIL import Image
from pydantic import ValidationError
from torch import Tensor

from img2mesh.errors import InputError
from img2mesh.geometry.cameras import Cameras
from img2mesh.geometry.nerfstudio import FILE
from img2mesh.geometry.views import Views
from img2mesh.manifests import CameraSpec, Matrix4, Model

OURS, NERFSTUDIO = "cameras.json", FILE
FEWEST, MOST = 3, 64
# Larger cut-outs are averaged down: the grid of the fit holds no more.
LARGEST_PX = 512
# Background kept about the object, as a share of its size.
MARGIN = 0.06
# nerfstudio's cameras look along -z with +y up, ours along +z with +y down.
_OPENCV_FROM_OPENGL = np.diag([1.0, -1.0, -1.0, 1.0])
_PROJECTIONS: dict[str, Literal["perspective", "orthographic"]] = {
    **dict.fromkeys(("OPENCV", "PINHOLE", "SIMPLE_PINHOLE"), "perspective"),
    "ORTHOPHOTO": "orthographic",
}
_DISTORTION = ("k1", "k2", "k3", "k4", "p1", "p2")


class PosedPicture(CameraSpec):
    """A camera and what it saw.

    Attributes:
        image: RGBA picture, relative to the folder; alpha is the object's coverage.
        normals: Normal map of the same size, if there is one.
    """

    image: str
    normals: str | None = None


class PosedPictures(Model):
    """The content of `cameras.json`."""

    views: tuple[PosedPicture, ...]


@dataclass(frozen=True, kw_only=True)
class Posed:
    """Views in the frame and the units of the person who gave them.

    Attributes:
        views: Square cut-outs about the object.
        names: One a view.
        up: The axis of that frame that points up.
    """

    views: Views
    names: tuple[str, ...]
    up: Literal["y", "z"]


def read_posed(folder: Path) -> Posed:
    """The views of a folder.

    Raises:
        InputError: There are no cameras, too few or too many; a picture is missing, unreadable, empty or of another size.
    """
    pictures, up = _listed(folder)
    if not FEWEST <= len(pictures) <= MOST:
        raise InputError(f"{folder} has {len(pictures)} views: give {FEWEST} to {MOST}")
    first = pictures[0]
    for picture in pictures:
        if (picture.projection, picture.width_px, picture.height_px) != (first.projection, first.width_px, first.height_px):
            raise InputError(f"{picture.image} and {first.image} differ in projection or size: all views must share them")
    # Pictures are read once more after this, so that large photographs are never in memory together.
    windows = _windows(folder, pictures)
    rgba = torch.stack([_cut(_picture(folder, p), *window) for p, window in zip(pictures, windows, strict=True)])
    alpha = rgba[:, 3]
    normals = torch.stack([_cut(_normals(folder, p), *window) for p, window in zip(pictures, windows, strict=True)])
    views = Views(
        cameras=_cameras(pictures, windows),
        rgb=rgba[:, :3] * alpha[:, None] + 1 - alpha[:, None],
        alpha=alpha,
        normals=normals * (alpha > 0.5)[:, None],
    )
    return Posed(views=_of_size(views, LARGEST_PX), names=tuple(picture.name for picture in pictures), up=up)


def _listed(folder: Path) -> tuple[tuple[PosedPicture, ...], Literal["y", "z"]]:
    if not folder.is_dir():
        raise InputError(f"{folder} is no folder: give one with pictures and {OURS} or {NERFSTUDIO}")
    ours, nerfstudio = folder / OURS, folder / NERFSTUDIO
    try:
        if ours.is_file():
            return PosedPictures.model_validate_json(ours.read_bytes()).views, "y"
        if nerfstudio.is_file():
            return _from_nerfstudio(json.loads(nerfstudio.read_bytes())), "z"
    except ValidationError as error:
        place = ".".join(map(str, error.errors()[0]["loc"]))
        raise InputError(f"{ours}: {place}: {error.errors()[0]['msg'].lower()}") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(f"{nerfstudio} is not a readable list of cameras: {error!r}") from error
    raise InputError(f"{folder} has neither {OURS} nor {NERFSTUDIO}: the views' cameras must be known")


def _from_nerfstudio(document: dict[str, Any]) -> tuple[PosedPicture, ...]:
    """Frames of a `transforms.json`; values of a frame go before those of the file."""
    pictures = []
    for frame in document["frames"]:
        values = {**document, **frame}
        model = values.get("camera_model", "OPENCV")
        if model not in _PROJECTIONS or any(values.get(name) for name in _DISTORTION):
            raise InputError(f"{frame['file_path']}: undistort the pictures first; found a {model} camera with distortion")
        width, height = int(values["w"]), int(values["h"])
        focal = float(values["fl_x"]) if "fl_x" in values else width / 2 / math.tan(float(values["camera_angle_x"]) / 2)
        if abs(float(values.get("fl_y", focal)) / focal - 1) > 0.01:
            raise InputError(f"{frame['file_path']}: pixels must be square; fl_x and fl_y differ by more than 1 %")
        pose = np.array(frame["transform_matrix"], dtype=np.float64) @ _OPENCV_FROM_OPENGL
        pictures.append(
            PosedPicture(
                name=Path(frame["file_path"]).stem,
                projection=_PROJECTIONS[model],
                world_from_camera=cast("Matrix4", tuple(map(tuple, pose.tolist()))),
                focal_px=focal,
                centre_px=(float(values.get("cx", width / 2)), float(values.get("cy", height / 2))),
                width_px=width,
                height_px=height,
                image=frame["file_path"],
                normals=frame.get("normal_path"),
            )
        )
    return tuple(pictures)


def _picture(folder: Path, picture: PosedPicture) -> Float[Tensor, "4 height width"]:
    values = _read(folder / picture.image, picture)
    if values.shape[-1] not in (2, 4):
        raise InputError(f"{folder / picture.image} has no alpha channel: cut the object out first")
    rgba = torch.from_numpy(values).movedim(-1, 0)
    if not bool((rgba[3] >= 0.5).any()):
        raise InputError(f"{folder / picture.image} is transparent all over: leave this view out")
    return rgba


def _normals(folder: Path, picture: PosedPicture) -> Float[Tensor, "3 height width"]:
    if picture.normals is None:
        return torch.zeros(3, picture.height_px, picture.width_px)
    values = torch.from_numpy(_read(folder / picture.normals, picture)[..., :3]).movedim(-1, 0) * 2 - 1
    return torch.nn.functional.normalize(values, dim=0)


def _read(path: Path, picture: PosedPicture) -> npt.NDArray[np.float32]:
    try:
        with Image.open(path) as image:
            mode = image.mode if image.mode in ("RGB", "RGBA") else "RGBA"
            values = np.asarray(image.convert(mode)).astype(np.float32) / np.float32(255)
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing, but the list of cameras names it") from error
    except (OSError, Image.DecompressionBombError) as error:
        raise InputError(f"{path} is not a readable picture: {error}") from error
    if values.shape[:2] != (picture.height_px, picture.width_px):
        found, wanted = f"{values.shape[1]} x {values.shape[0]}", f"{picture.width_px} x {picture.height_px}"
        raise InputError(f"{path} is {found} pixels, but its camera says {wanted}")
    return values


def _windows(folder: Path, pictures: Sequence[PosedPicture]) -> list[tuple[int, int, int]]:
    """Left, top and side in pixels of a square about the object in each picture, of one side for all."""
    boxes = []
    for picture in pictures:
        rows, columns = (_picture(folder, picture)[3] >= 0.5).nonzero().unbind(-1)
        boxes.append((int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1))
    side = max(max(right - left, bottom - top) for left, top, right, bottom in boxes)
    # An even frame that halves well; a margin lets the fit see background on all sides.
    side = -(-round(side * (1 + 2 * MARGIN)) // 8) * 8
    return [((left + right - side) // 2, (top + bottom - side) // 2, side) for left, top, right, bottom in boxes]


def _cut(image: Float[Tensor, "channel height width"], left: int, top: int, side: int) -> Float[Tensor, "channel side side"]:
    """A square window, zero where it leaves the picture."""
    height, width = image.shape[1:]
    return torch.nn.functional.pad(image, (-left, left + side - width, -top, top + side - height))


def _of_size(views: Views, largest_px: int) -> Views:
    """The views averaged down by a whole factor until no side exceeds the largest."""
    factor = -(-views.cameras.width_px // largest_px)
    side = views.cameras.width_px // factor
    if factor == 1:
        return views
    kept = side * factor
    small = [torch.nn.functional.avg_pool2d(t[..., :kept, :kept], factor) for t in (views.rgb, views.alpha, views.normals)]
    cameras = replace(views.cameras, width_px=kept, height_px=kept).resized(side, side)
    return Views(cameras=cameras, rgb=small[0], alpha=small[1], normals=torch.nn.functional.normalize(small[2], dim=1))


def _cameras(pictures: Sequence[PosedPicture], windows: Sequence[tuple[int, int, int]]) -> Cameras:
    centres = torch.tensor([p.centre_px for p in pictures]) - torch.tensor([(left, top) for left, top, _ in windows])
    side = windows[0][2]
    return Cameras(
        projection=pictures[0].projection,
        world_from_camera=torch.tensor([p.world_from_camera for p in pictures]),
        focal_px=torch.tensor([p.focal_px for p in pictures]),
        centre_px=centres,
        width_px=side,
        height_px=side,
    )
