"""What six views can show at best: the solid fused from their true depth maps, beside the hull of their masks."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras, project
from img2mesh.neus.grid import corner_points, spacing
from img2mesh.neus.hull import build_hull, contours_of

Field = Float[Tensor, "z y x"]
# Two maps of a bare sheet would leave nothing of it: each view sees this much too deep.
_SHEET_VOXELS = 1.0
_CHUNK = 1 << 20


def fused(
    cameras: Cameras, alpha: Float[Tensor, "view height width"], depth: Float[Tensor, "view height width"], resolution: int
) -> Field:
    """What no view sees past, as a field that is positive outside, scene units.

    Args:
        alpha: Coverage; half is the contour.
        depth: z-depth, scene units; 0 in the background.
    """
    contours = contours_of(alpha)
    nearer = functional.max_pool2d(depth[:, None], 3, stride=1, padding=1)[:, 0]
    filled = torch.where(depth > 0, depth, nearer)
    field = torch.full((resolution**3,), -torch.inf)
    for flat in torch.arange(resolution**3).split(_CHUNK):
        points = corner_points(flat, resolution)
        for view in range(len(cameras)):
            pixels, z = project(cameras[[view]], points[None])
            outline = _bilinear(contours[view], pixels[0], cameras) * _unit(cameras, view, z[0])
            ahead = _looked_up(filled[view], pixels[0]) - z[0] - _SHEET_VOXELS * spacing(resolution)
            field[flat] = torch.maximum(field[flat], torch.where(outline < 0, torch.maximum(outline, ahead), outline))
    return field.reshape((resolution,) * 3)


def hull(cameras: Cameras, alpha: Float[Tensor, "view height width"], resolution: int) -> Field:
    """The visual hull of the masks, positive outside, scene units."""
    return build_hull(cameras, alpha, slack_px=0.0).on_grid(resolution)[0]


def _unit(cameras: Cameras, view: int, z: Tensor) -> Tensor:
    """Scene units of one pixel at a depth."""
    scale = z.clamp(min=1e-6) if cameras.projection == "perspective" else torch.ones_like(z)
    return scale / cameras.focal_px[view]


def _bilinear(image: Tensor, pixels: Tensor, cameras: Cameras) -> Tensor:
    size = torch.tensor([cameras.width_px, cameras.height_px])
    places = (pixels / size * 2 - 1)[None, :, None]
    return functional.grid_sample(image[None, None], places, align_corners=False, padding_mode="border")[0, 0, :, 0]


def _looked_up(depth: Float[Tensor, "height width"], pixels: Float[Tensor, "points 2"]) -> Float[Tensor, "points"]:
    """Depth between pixels: bilinear on one surface, the nearest pixel's where the four around lie on several."""
    height, width = depth.shape
    x, y = (pixels - 0.5).unbind(-1)
    x, y = x.clamp(0, width - 1), y.clamp(0, height - 1)
    left, top = x.long().clamp(max=width - 2), y.long().clamp(max=height - 2)
    corners = torch.stack([depth[top + dy, left + dx] for dy in (0, 1) for dx in (0, 1)])
    u, v = x - left, y - top
    weights = torch.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    nearest = depth[y.round().long(), x.round().long()]
    smooth = corners.amax(0) - corners.amin(0) < 0.05
    return torch.where(smooth, (corners * weights).sum(0), nearest)
