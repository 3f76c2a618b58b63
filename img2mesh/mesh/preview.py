"""One sheet that shows what went in, what was made of it, and what came out."""

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont

from img2mesh.geometry.cameras import Cameras, orbit, project
from img2mesh.geometry.views import Views
from img2mesh.mesh.render import render
from img2mesh.mesh.topology import Floats
from img2mesh.mesh.uv import TexturedMesh

PAPER = (247, 247, 245)
PANEL = (255, 255, 255)
BORDER = (224, 224, 220)
INK = (70, 72, 76)
RENDER_AZIMUTHS_DEG = (0.0, 45.0, 135.0, 225.0)
RENDER_ELEVATION_DEG = 20.0
# Of a render's side, the mesh's longest side in any of them.
FILLED_SHARE = 0.9
# From the upper left, as the eye expects it; the camera turns and the light turns with it.
_LIGHT = np.array([-0.45, 0.7, 0.55]) / np.linalg.norm([-0.45, 0.7, 0.55])

Picture = npt.NDArray[np.floating]


def sheet(
    textured: TexturedMesh, views: Views, picture: UInt8[np.ndarray, "height width 4"], names: Sequence[str], width_px: int
) -> npt.NDArray[np.uint8]:
    """The preview, uint8 [height, width, 3]: the input, colour and normal views beside it, four renders of the mesh below.

    Args:
        picture: The prepared input, straight alpha.
        names: Captions of the views.
        width_px: Of the sheet.
    """
    gap, margin, caption = width_px // 130, width_px // 50, _caption_px(width_px)
    # A column of two small pictures with a caption between them is as high as the large one beside it.
    inner = width_px - 2 * margin
    small = (inner - gap - caption - len(names) * gap) // (len(names) + 2)
    large = 2 * small + gap + caption
    inner = large + len(names) * (gap + small)
    wide = (inner - (len(RENDER_AZIMUTHS_DEG) - 1) * gap) // len(RENDER_AZIMUTHS_DEG)
    margin = (width_px - inner) // 2
    paper = Image.new("RGB", (width_px, 2 * margin + large + wide + 2 * caption + gap), PAPER)
    _place(paper, (margin, margin), large, _over_white(picture), "input")
    for index, name in enumerate(names):
        left = margin + large + gap + index * (small + gap)
        colour, normals = (images[index].movedim(0, -1).numpy() for images in (views.rgb, views.normals))
        _place(paper, (left, margin), small, colour, name.replace("_", " "))
        shown = _normals_as_colours(normals, views.alpha[index].numpy())
        _place(paper, (left, margin + large - small), small, shown, f"{name.replace('_', ' ')}, normals")
    top = margin + large + caption + gap
    for index, (azimuth, shown) in enumerate(zip(RENDER_AZIMUTHS_DEG, _shaded(textured, wide), strict=True)):
        left = margin + round(index * (inner - wide) / (len(RENDER_AZIMUTHS_DEG) - 1))
        _place(paper, (left, top), wide, shown, f"mesh from {azimuth:.0f}°")
    return np.asarray(paper)


def _place(paper: Image.Image, corner: tuple[int, int], side: int, shown: Picture, name: str) -> None:
    """Put one picture on the sheet, with its caption below."""
    left, top = corner
    caption = _caption_px(paper.width)
    pixels = Image.fromarray((np.clip(shown, 0, 1) * 255).round().astype(np.uint8))
    paper.paste(pixels.resize((side, side), Image.Resampling.LANCZOS), (left, top))
    draw = ImageDraw.Draw(paper)
    draw.rectangle((left, top, left + side - 1, top + side - 1), outline=BORDER)
    draw.text(
        (left + side / 2, top + side + caption * 0.5),
        name,
        fill=INK,
        font=ImageFont.load_default(max(10, caption * 6 // 10)),
        anchor="mm",
    )


def _caption_px(width_px: int) -> int:
    return width_px // 60


def _over_white(picture: npt.NDArray[np.uint8]) -> Picture:
    values = picture.astype(np.float32) / 255
    return np.asarray(values[..., :3] * values[..., 3:] + 1 - values[..., 3:])


def _normals_as_colours(normals: Picture, alpha: Picture) -> Picture:
    return np.asarray((normals * 0.5 + 0.5) * alpha[..., None] + 1 - alpha[..., None])


def _framing(vertices: Floats, side_px: int) -> Cameras:
    """Cameras in which the mesh is centred and large, at one scale."""
    cameras = orbit(RENDER_AZIMUTHS_DEG, size_px=side_px, elevation_deg=RENDER_ELEVATION_DEG)
    points = torch.from_numpy(vertices).float().expand(len(cameras), -1, -1)
    pixels, _ = project(cameras, points)
    low, high = pixels.amin(dim=1), pixels.amax(dim=1)
    scale = FILLED_SHARE * side_px / float((high - low).max())
    centre_px = side_px / 2 - scale * ((low + high) / 2 - cameras.centre_px)
    return replace(cameras, focal_px=cameras.focal_px * scale, centre_px=centre_px)


def _shaded(textured: TexturedMesh, side_px: int) -> Picture:
    """Renders over white under soft light."""
    cameras = _framing(textured.mesh.vertices, side_px)
    renders = render(textured, cameras)
    right, down, forward = (cameras.world_from_camera[:, :3, axis].numpy() for axis in range(3))
    light = right * _LIGHT[0] - down * _LIGHT[1] - forward * _LIGHT[2]
    facing = np.clip(np.einsum("vhwc,vc->vhw", renders.normals, light), 0, 1)
    lit = renders.rgb * (0.78 + 0.34 * facing)[..., None]
    alpha = renders.alpha[..., None]
    return np.asarray(np.clip(lit, 0, 1) * alpha + 1 - alpha)
