"""What views show, what they say about each other's surfaces, and where their rays run in a solid."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, project, rays
from img2mesh.geometry.views import Views
from img2mesh.neus.grid import corner_points, sample, spacing

# Pixels that are covered less than this show two things at once.
COVERED = 0.95
# Differences that sampling explains: of colours in [0, 1], and of the components of normals.
_COLOUR, _NORMAL = 0.1, 0.25
# A view is asked about what another shows if that one's normal faces it at least by this cosine.
_FACING_COSINE = 0.25
# Of all views at most this many are asked, the nearest, and none further away than this.
_ASKED, _NEAR_COSINE = 4, 0.5
# Around what is looked at, voxels or pixels.
_MARGIN = 3


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What each view shows about each pixel.

    Attributes:
        low: Least colour and normal among the pixels around; `-inf` where nothing is certain.
        high: The greatest; `inf` where nothing is certain.
        normals: Of the pixel itself.
    """

    cameras: Cameras
    low: Float[Tensor, "view pixels 6"]
    high: Float[Tensor, "view pixels 6"]
    normals: Float[Tensor, "view pixels 3"]


def seen_in(views: Views) -> Seen:
    """What the pixels of views with normals show, and those around them."""
    values = torch.cat([views.rgb, views.normals], dim=1)
    certain = (views.alpha > COVERED)[:, None]
    high = F.max_pool2d(torch.where(certain, values, -torch.inf), 3, stride=1, padding=1)
    low = -F.max_pool2d(torch.where(certain, -values, -torch.inf), 3, stride=1, padding=1)
    unknown = torch.isinf(high)
    ranges = torch.where(unknown, -torch.inf, low), torch.where(unknown, torch.inf, high), views.normals
    low, high, normals = (values.flatten(2).mT.contiguous() for values in ranges)
    return Seen(cameras=views.cameras, low=low, high=high, normals=normals)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Where the rays of one view's certain pixels run in the start.

    Attributes:
        row: Of each pixel.
        column: Of each pixel.
        depths: z-depths, a voxel apart.
        level: Number of the depth of each place.
        number: Number of the pixel of each place.
        points: World positions of the places.
        first: Of the first place of each pixel.
        hull: Level at which each pixel's ray enters the start, between whole numbers.
    """

    row: Int[Tensor, "pixels"]
    column: Int[Tensor, "pixels"]
    depths: Float[Tensor, "depth"]
    level: Int[Tensor, "places"]
    number: Int[Tensor, "places"]
    points: Float[Tensor, "places 3"]
    first: Float[Tensor, "pixels 3"]
    hull: Float[Tensor, "pixels"]

    def met(self, field: Float[Tensor, "z y x"]) -> Int[Tensor, "pixels"]:
        """Number of the first place of each pixel in a solid within the start; -1 where its ray meets nothing."""
        within = (sample(field, self.points) < 0).nonzero()[:, 0]
        nobody = len(self.points)
        # Places go by depth.
        first = torch.full_like(self.row, nobody).scatter_reduce(0, self.number[within], within, "amin")
        return torch.where(first < nobody, first, -1)


def sight_of(views: Views, view: int, start: Float[Tensor, "z y x"]) -> Sight:
    """Where the rays of a view run in a solid."""
    depths = _depths(views.cameras, view, start)
    origins, directions = (r[0] for r in rays(views.cameras[[view]]))
    row, column = (views.alpha[view] > COVERED).nonzero().unbind(-1)
    points = origins[row, column] + directions[row, column] * depths[:, None, None]
    values = sample(start, points)
    inner = values < 0
    level, number = inner.nonzero().unbind(-1)
    entry, pixels = inner.float().argmax(0), torch.arange(len(row))
    before, after = values[(entry - 1).clamp(min=0), pixels], values[entry, pixels]
    return Sight(
        row=row,
        column=column,
        depths=depths,
        level=level,
        number=number,
        points=points[level, number],
        first=points[entry, pixels],
        hull=entry + (after / (before - after)).clamp(-1, 0).nan_to_num(),
    )


def _depths(cameras: Cameras, view: int, start: Float[Tensor, "z y x"]) -> Float[Tensor, "depth"]:
    """z-depths a voxel apart over the box of the start."""
    voxel = spacing(start.shape[0])
    z, y, x = (torch.tensor([side.start, min(side.stop, start.shape[0]) - 1]) for side in box_of(start < 0))
    flat = torch.cartesian_prod(z, y, x) @ torch.tensor([start.shape[0] ** 2, start.shape[0], 1])
    away = project(cameras[[view]], corner_points(flat, start.shape[0])[None])[1]
    return torch.arange(float(away.min()), float(away.max()) + voxel, voxel)


def others(cameras: Cameras, view: int, trusted: Iterable[int]) -> list[int]:
    """The views that are asked about one, nearest first."""
    forward = cameras.world_from_camera[:, :3, 2]
    alike = forward @ forward[view]
    near = [other for other in trusted if other != view and alike[other] > _NEAR_COSINE]
    return sorted(near, key=lambda other: -float(alike[other]))[:_ASKED]


def answers(
    seen: Seen, view: int, other: int, points: Float[Tensor, "points 3"], here: Int[Tensor, "points"]
) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
    """Whether another view contradicts what one shows at points, and whether it can judge that."""
    against, asked = torch.zeros(len(points)), torch.zeros(len(points))
    forward = seen.cameras.world_from_camera[other, :3, 2]
    faced = (seen.normals[view, here] @ forward < -_FACING_COSINE).nonzero()[:, 0]
    there, _, inside = pixel_of(seen.cameras[[other]], points[faced])
    inside &= torch.isfinite(seen.low[other, there, 0])
    faced, there = faced[inside], there[inside]
    mine = here[faced]
    gap = torch.maximum(seen.low[view, mine] - seen.high[other, there], seen.low[other, there] - seen.high[view, mine])
    against[faced] = ((gap[:, :3] > _COLOUR).any(-1) | (gap[:, 3:] > _NORMAL).any(-1)).float()
    asked[faced] = 1
    return against, asked


def pixel_of(
    camera: Cameras, points: Float[Tensor, "points 3"]
) -> tuple[Int[Tensor, "points"], Float[Tensor, "points"], Bool[Tensor, "points"]]:
    """Flat index of the pixel of each point, its z-depth, and whether it lies in the picture."""
    pixels, z = project(camera, points[None])
    x, y = pixels[0].floor().long().unbind(-1)
    inside = (x >= 0) & (x < camera.width_px) & (y >= 0) & (y < camera.height_px) & (z[0] > 0)
    return torch.where(inside, y * camera.width_px + x, 0), z[0], inside


def box_of(flags: Bool[Tensor, "*axes"]) -> tuple[slice, ...]:
    """The box of what is flagged, with a margin."""
    places = flags.nonzero()
    low, high = (places.amin(0) - _MARGIN).clamp(min=0).tolist(), (places.amax(0) + 1 + _MARGIN).tolist()
    return tuple(slice(first, last) for first, last in zip(low, high, strict=True))
