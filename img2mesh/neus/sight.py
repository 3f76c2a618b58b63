"""What views show, what they say about each other's surfaces, and where their rays run in a solid."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

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
_DIFFERENCE = torch.tensor([0.1] * 3 + [0.25] * 3)[:, None]
# A view is asked about what another shows if that one's normal faces it at least by this cosine.
_FACING_COSINE = 0.25
# Of all views at most this many are asked, the nearest, and none further away than this.
_ASKED, _NEAR_COSINE = 4, 0.5
# Around what is looked at, voxels or pixels.
_MARGIN = 3
# Points about which another view is asked at a time.
_CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Seen:
    """What each view shows about each pixel.

    Attributes:
        low: Least colour and normal among the pixels around; `-inf` where nothing is certain.
        high: The greatest; `inf` where nothing is certain.
        normals: Of the pixel itself.
    """

    cameras: Cameras
    low: Float[Tensor, "view 6 pixels"]
    high: Float[Tensor, "view 6 pixels"]
    normals: Float[Tensor, "view pixels 3"]

    def with_view(self, view: int, others: "Seen") -> "Seen":
        """The same but for one view, which shows what it does in others."""
        values = {name: getattr(self, name).clone() for name in ("low", "high", "normals")}
        for name, value in values.items():
            value[view] = getattr(others, name)[view]
        return replace(self, **values)


def seen_in(views: Views) -> Seen:
    """What the pixels of views with normals show, and those around them."""
    values = torch.cat([views.rgb, views.normals], dim=1)
    certain = (views.alpha > COVERED)[:, None]
    high = F.max_pool2d(torch.where(certain, values, -torch.inf), 3, stride=1, padding=1)
    low = -F.max_pool2d(torch.where(certain, -values, -torch.inf), 3, stride=1, padding=1)
    unknown = torch.isinf(high)
    return Seen(
        cameras=views.cameras,
        low=torch.where(unknown, -torch.inf, low).flatten(2),
        high=torch.where(unknown, torch.inf, high).flatten(2),
        normals=views.normals.flatten(2).mT.contiguous(),
    )


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Where the rays of one view's certain pixels run in a solid.

    Attributes:
        row: Of each pixel.
        column: Of each pixel.
        pixel: Flat index of each pixel.
        origins: Of each pixel's ray, world.
        directions: Of each pixel's ray, of length 1 in z-depth.
        depths: z-depths, a voxel apart; their numbers are levels.
        inner: Whether each place of a ray lies in the solid.
        hull: Level at which each pixel's ray enters the solid, between whole numbers.
    """

    row: Int[Tensor, "pixels"]
    column: Int[Tensor, "pixels"]
    pixel: Int[Tensor, "pixels"]
    origins: Float[Tensor, "pixels 3"]
    directions: Float[Tensor, "pixels 3"]
    depths: Float[Tensor, "depth"]
    inner: Bool[Tensor, "depth pixels"]
    hull: Float[Tensor, "pixels"]

    def places(self) -> tuple[Int[Tensor, "places"], Int[Tensor, "places"], Float[Tensor, "places 3"]]:
        """Level, number of the pixel, and position of each place in the solid, by depth."""
        level, number = self.inner.nonzero().unbind(-1)
        return level, number, self.origins[number] + self.directions[number] * self.depths[level, None]

    def first(self) -> Int[Tensor, "pixels"]:
        """Level at which each pixel's ray is first in the solid; -1 where it meets nothing."""
        return torch.where(self.inner.any(0), self.inner.byte().argmax(0), -1)

    def met(self, field: Float[Tensor, "z y x"]) -> Int[Tensor, "pixels"]:
        """Level at which each pixel's ray is first in another solid, which lies in this one; -1 where it meets nothing."""
        level, number, points = self.places()
        within = sample(field, points) < 0
        nobody = len(self.depths)
        first = torch.full_like(self.row, nobody).scatter_reduce(0, number[within], level[within], "amin")
        return torch.where(first < nobody, first, -1)

    def at(self, level: Int[Tensor, "pixels"]) -> Float[Tensor, "pixels 3"]:
        """Positions of a level of each pixel."""
        return self.origins + self.directions * self.depths[level, None]


def sight_of(views: Views, view: int, start: Float[Tensor, "z y x"]) -> Sight:
    """Where the rays of a view run in a solid."""
    depths = _depths(views.cameras, view, start)
    row, column = (views.alpha[view] > COVERED).nonzero().unbind(-1)
    origins, directions = (r[0].expand(*views.alpha[view].shape, 3)[row, column] for r in rays(views.cameras[[view]]))
    values = sample(start, origins + directions * depths[:, None, None])
    inner, pixels = values < 0, torch.arange(len(row))
    entry = inner.byte().argmax(0)
    before, after = values[(entry - 1).clamp(min=0), pixels], values[entry, pixels]
    hull = entry + (after / (before - after)).clamp(-1, 0).nan_to_num()
    return Sight(
        row=row,
        column=column,
        pixel=row * views.cameras.width_px + column,
        origins=origins,
        directions=directions,
        depths=depths,
        inner=inner,
        hull=hull,
    )


def _depths(cameras: Cameras, view: int, start: Float[Tensor, "z y x"]) -> Float[Tensor, "depth"]:
    """z-depths a voxel apart over the box of the start."""
    voxel = spacing(start.shape[0])
    z, y, x = (torch.tensor([side.start, side.stop - 1]) for side in box_of(start < 0))
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
    faced_by = _facing(seen, view, other, points, here)
    against, asked = torch.zeros(len(points)), torch.zeros(len(points))
    for some in torch.arange(len(points)).split(_CHUNK):
        faced = some[faced_by[some]]
        there, _, inside = pixel_of(seen.cameras[[other]], points[faced])
        inside &= torch.isfinite(seen.low[other, 0, there])
        part, there = faced[inside], there[inside]
        mine = here[part]
        above = seen.low[view].index_select(1, mine) - seen.high[other].index_select(1, there)
        below = seen.low[other].index_select(1, there) - seen.high[view].index_select(1, mine)
        against[part] = (torch.maximum(above, below) > _DIFFERENCE).any(0).float()
        asked[part] = 1
    return against, asked


def _facing(seen: Seen, view: int, other: int, points: Float[Tensor, "points 3"], here: Int[Tensor, "points"]) -> Tensor:
    """Whether what a view shows at points faces another view."""
    if seen.cameras.projection == "orthographic":
        # Alike for all points of a pixel, of which there are many.
        return (seen.normals[view] @ seen.cameras.world_from_camera[other, :3, 2] < -_FACING_COSINE)[here]
    cosine: Tensor = (seen.normals[view, here] * looks(seen.cameras, other, points)).sum(-1)
    return cosine < -_FACING_COSINE


def looks(cameras: Cameras, view: int, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Directions, of length 1, in which a view sees points."""
    pose = cameras.world_from_camera[view, :3]
    return F.normalize(points - pose[:, 3], dim=-1) if cameras.projection == "perspective" else pose[:, 2].expand_as(points)


def pixel_of(
    camera: Cameras, points: Float[Tensor, "points 3"]
) -> tuple[Int[Tensor, "points"], Float[Tensor, "points"], Bool[Tensor, "points"]]:
    """Flat index of the pixel of each point, its z-depth, and whether it lies in the picture."""
    pixels, z = project(camera, points[None])
    x, y = pixels[0].floor().long().unbind(-1)
    inside = (x >= 0) & (x < camera.width_px) & (y >= 0) & (y < camera.height_px) & (z[0] > 0)
    return torch.where(inside, y * camera.width_px + x, 0), z[0], inside


def box_of(flags: Bool[Tensor, "*axes"]) -> tuple[slice, ...]:
    """The box of what is flagged, with a margin where there is room."""
    places = flags.nonzero()
    low, high = (places.amin(0) - _MARGIN).clamp(min=0).tolist(), (places.amax(0) + 1 + _MARGIN).tolist()
    return tuple(slice(first, min(last, size)) for first, last, size in zip(low, high, flags.shape, strict=True))
