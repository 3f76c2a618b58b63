"""Space that colours and normals rule out: how deep behind the hull true views place what they see.

A hull fills every hollow that no outline shows. Along the ray of a pixel, from the hull inwards, a place can be where the
pixel's surface is only if the views that its normal faces see the same colour and normal there. Where the hull itself is
contradicted and a place behind it is not, the space in between is empty.

Source: Collins, A space-sweep approach to true multi-image matching, 1996; normals beside colours, and the rules for what is
left open, are ours.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_dilation, distance_transform_edt
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, project, rays
from img2mesh.geometry.views import Views
from img2mesh.neus.grid import corner_points, sample, spacing
from img2mesh.neus.pieces import Pieces, pieces

# Differences that sampling explains: of colours in [0, 1], and of the components of normals.
_COLOUR, _NORMAL = 0.1, 0.25
# A view is asked about what another shows if that one's normal faces it at least by this cosine.
_FACING_COSINE = 0.25
# Of all views at most this many are asked, the nearest.
_ASKED = 4
# Pixels that are covered less than this show two things at once.
_COVERED = 0.95
# A difference of contradictions from which a pixel tells which of two places is right.
_TELLING = 0.4
# A pixel contradicted this much is not where its piece is.
_WRONG = 0.7
# What counts against a place that no view can judge.
_UNKNOWN = 0.3
# Places of a piece that differ by less than this in the share of contradictions are equally good.
_AS_GOOD = 0.03
# A piece leaves the hull that it could touch for a place that is better by more than this, and than one that none can judge.
_WORTH = 0.1
# Levels at which a piece is tried, and how far before the hull a pixel may be, voxels.
_STEP, _CONTACT = 0.5, 0.25
# This near to the depth at which it touches the hull a piece does touch it, voxels.
_NEAR_CONTACT = 1.0
# Pixels between two wide pieces are this many at most.
_BORDER_PX = 2
# What carving adds to distances outside the start, voxels.
_OUTSIDE_VOXELS = 0.05
# Where a covered pixel would be bare, so much of the start stays before and behind its surface, voxels.
_KEPT_BEFORE, _KEPT_BEHIND = 0.5, 1.5
# Less than this behind the hull nothing is carved, voxels.
_GAIN_VOXELS = 0.3
# Steps along a line of sight, voxels.
_SIGHT_VOXELS = 2.0
# Views further apart than this are not asked about each other.
_NEAR_COSINE = 0.5
# A view that its neighbours contradict on more than this share of the hull's surface is wrong as a whole.
_DISTRUSTED = 0.6
# Around what is looked at, voxels or pixels.
_MARGIN = 3


@dataclass(frozen=True, kw_only=True)
class _Seen:
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


def carved(views: Views, start: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """The start without the space that true views rule out, scene units, positive outside.

    Args:
        views: True ones with normals, about as many pixels wide as the grid.
        start: Signed distance to a solid that contains the object.
    """
    seen = _seen(views)
    trusted = _trusted(views, seen, start)
    solid = (start.reshape(-1) < 0).nonzero()[:, 0]
    points, ahead = corner_points(solid, start.shape[0]), torch.full((len(solid),), -torch.inf)
    placed = {view: _depth(views, seen, view, trusted, start) for view in trusted}
    for view, (_, empty) in placed.items():
        pixel, z, inside = _pixel(views.cameras[[view]], points)
        ahead = torch.where(inside, torch.maximum(ahead, empty.view(-1)[pixel] - z), ahead)
    space = _without(start, solid, ahead)
    for view, (surface, _) in placed.items():
        bare = _bare(views, view, torch.maximum(start, space))
        pixel, z, inside = _pixel(views.cameras[[view]], points)
        behind = (z - surface.view(-1)[pixel]) / spacing(start.shape[0])
        ahead[inside & bare.view(-1)[pixel] & (behind > -_KEPT_BEFORE) & (behind < _KEPT_BEHIND)] = -torch.inf
    return torch.maximum(start, _without(start, solid, ahead))


def _without(start: Float[Tensor, "z y x"], solid: Int[Tensor, "solid"], ahead: Float[Tensor, "solid"]) -> Tensor:
    """Signed distance to the space ahead of depth maps, given how far ahead of them the solid's voxels are."""
    everywhere = torch.full((start.numel(),), -torch.inf).index_copy_(0, solid, ahead)
    return _as_distance(everywhere.reshape(start.shape), start)


def _bare(views: Views, view: int, field: Float[Tensor, "z y x"]) -> Bool[Tensor, "height width"]:
    """Covered pixels of a view whose rays meet nothing."""
    rays_in = _inside(views, view, field)
    bare = torch.zeros(views.alpha.shape[1:], dtype=torch.bool)
    bare[rays_in.row, rays_in.column] = torch.bincount(rays_in.number, minlength=len(rays_in.row)) == 0
    return bare


def _as_distance(ahead: Float[Tensor, "z y x"], start: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Signed distance to the boundary of what lies ahead of depth maps, whose own values jump where these do."""
    voxel, near = spacing(start.shape[0]), _box(start < 0)
    distance, ahead = torch.full_like(start, -torch.inf), ahead[near]
    outside = (start[near] >= 0).numpy()
    carved_out = (ahead > 0).numpy() & ~outside
    if not carved_out.any():
        return distance
    # It reaches just into the space about the start: no shell stays between the two, and the start's own surface where it is.
    empty = carved_out | (binary_dilation(carved_out, iterations=2) & outside)
    ahead = torch.where(torch.from_numpy(empty & outside), _OUTSIDE_VOXELS * voxel, ahead)
    inner, outer = (distance_transform_edt(side).astype(np.float32) for side in (empty, ~empty))
    nearest = torch.from_numpy(np.where(empty, inner, outer)) * voxel
    distance[near] = torch.sign(ahead) * torch.minimum(ahead.abs(), nearest)
    return distance


def _box(flags: Bool[Tensor, "*axes"]) -> tuple[slice, ...]:
    """The box of what is flagged, with a margin."""
    places = flags.nonzero()
    low, high = (places.amin(0) - _MARGIN).clamp(min=0).tolist(), (places.amax(0) + 1 + _MARGIN).tolist()
    return tuple(slice(first, last) for first, last in zip(low, high, strict=True))


def _seen(views: Views) -> _Seen:
    values = torch.cat([views.rgb, views.normals], dim=1)
    certain = (views.alpha > _COVERED)[:, None]
    high = F.max_pool2d(torch.where(certain, values, -torch.inf), 3, stride=1, padding=1)
    low = -F.max_pool2d(torch.where(certain, -values, -torch.inf), 3, stride=1, padding=1)
    unknown = torch.isinf(high)
    ranges = torch.where(unknown, -torch.inf, low), torch.where(unknown, torch.inf, high), views.normals
    low, high, normals = (values.flatten(2).mT.contiguous() for values in ranges)
    return _Seen(cameras=views.cameras, low=low, high=high, normals=normals)


def _trusted(views: Views, seen: _Seen, start: Float[Tensor, "z y x"]) -> list[int]:
    """The views that do not contradict most of what their neighbours see of the hull: one with wrong normals is left out."""
    blame = torch.full((len(views), len(views)), torch.nan)
    for view in range(len(views)):
        swept = _inside(views, view, start)
        pixel = swept.row * views.cameras.width_px + swept.column
        for other in _others(seen.cameras, view, range(len(views))):
            against, asked = _answers(seen, view, other, swept.first, pixel)
            clear = _clear_sight(start, swept.first, seen.cameras.world_from_camera[other, :3, 2])
            blame[view, other] = (against * clear).sum() / (asked * clear).sum()
    blame = torch.stack([blame, blame.T]).nanmean(0)
    trusted = list(range(len(views)))
    while trusted:
        worst = blame[trusted][:, trusted].nanmean(1).nan_to_num()
        if float(worst.max()) <= _DISTRUSTED:
            break
        del trusted[int(worst.argmax())]
    return trusted


def _depth(
    views: Views, seen: _Seen, view: int, trusted: Sequence[int], start: Float[Tensor, "z y x"]
) -> tuple[Float[Tensor, "height width"], Float[Tensor, "height width"]]:
    """z-depth of a view's surface as far as is known, and up to which the start is empty there; `-inf` where it is not."""
    voxel = spacing(start.shape[0])
    covered = views.alpha[view] > _COVERED
    surface, empty = (torch.full_like(views.alpha[view], -torch.inf) for _ in range(2))
    if not bool(covered.any()):
        return surface, empty
    window = _box(covered)
    swept = _contradictions(views, seen, view, trusted, start)
    whole = pieces(views, view).within(window)
    level = _levels(whole, swept)
    # What is contradicted where the rest of its piece is right is another piece, further back.
    level = torch.maximum(level, _levels(whole.among(_opened(_at(swept.cost, level) > _WRONG)), swept))
    level = torch.where(_dragged(level, swept), swept.hull, level)
    level = _joined(level, whole, covered[window], voxel)
    surface[window] = swept.depths[0] + torch.maximum(level, swept.hull) * voxel
    empty[window] = torch.where(level > swept.hull + _GAIN_VOXELS, surface[window], -torch.inf)
    return surface, empty


def _opened(flags: Bool[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """The flags without what is nowhere three pixels wide."""
    core = -F.max_pool2d(-flags.float()[None], 3, stride=1, padding=1)
    return F.max_pool2d(core, 3, stride=1, padding=1)[0] > 0


def _levels(found: Pieces, swept: "_Swept") -> Float[Tensor, "height width"]:
    """Level of each pixel of a piece, where the least of the piece is contradicted; -1 for other pixels."""
    chosen, deepest = found.label >= 0, len(swept.depths) - 1
    label, hull, columns = found.label[chosen], swept.hull[chosen], swept.cost[:, chosen]
    count = torch.bincount(label, minlength=found.count).clamp(min=1)
    shape = found.depth[chosen] / (swept.depths[1] - swept.depths[0])
    shape = shape - (torch.zeros(found.count).index_add_(0, label, shape) / count)[label]
    steps = torch.arange(0, deepest, _STEP)
    blame = torch.zeros(len(steps), found.count)
    for number, step in enumerate(steps):
        place = step + shape
        lower = place.floor().clamp(0, deepest - 1)
        near, far = (columns.gather(0, (lower.long() + next_one)[None])[0] for next_one in (0, 1))
        value = torch.lerp(near, far, (place - lower).clamp(0, 1))
        beyond = (place < hull - _CONTACT) | (place > deepest)
        blame[number].index_add_(0, label, torch.where(beyond, 1.0, value))
    blame /= count
    # The first of the places that are about as good as the best one: a piece lies no deeper than it has to.
    best, touching = steps[(blame <= blame.amin(0) + _AS_GOOD).float().argmax(0)], _touching(hull - shape, label, count)
    there = blame.gather(0, (touching / _STEP).ceil().long().clamp(0, len(steps) - 1)[None])[0]
    keeps = ((best - touching).abs() < _NEAR_CONTACT) | (there <= blame.amin(0) + _WORTH) | (blame.amin(0) > _UNKNOWN - _WORTH)
    best = torch.where(keeps & (best > touching - _NEAR_CONTACT), touching, best)
    level = torch.full(found.label.shape, -1.0)
    level[chosen] = (best[label] + shape).clamp(min=0)
    return level


def _touching(gap: Float[Tensor, "pixels"], label: Int[Tensor, "pixels"], count: Int[Tensor, "pieces"]) -> Tensor:
    """How deep each piece lies that touches the hull: all but a few of its pixels are behind it."""
    order = gap.argsort()
    order = order[label[order].argsort(stable=True)]
    rank = ((1 - _AS_GOOD) * (count - 1)).round().long()
    return gap[order][(count.cumsum(0) - count + rank).clamp(max=len(gap) - 1)]


def _dragged(level: Float[Tensor, "height width"], swept: "_Swept") -> Bool[Tensor, "height width"]:
    """Pixels that a piece takes behind the hull though the hull is right there: two surfaces can look like one piece.

    Where pixels themselves do not tell, the nearest ones that do decide.
    """
    behind = level > swept.hull + _NEAR_CONTACT
    gain = _at(swept.cost, swept.hull.ceil()) - _at(swept.cost, level)
    telling = behind & (gain.abs() > _TELLING)
    if not bool(telling.any()):
        return torch.zeros_like(behind)
    row, column = distance_transform_edt(~telling.numpy(), return_distances=False, return_indices=True)
    return behind & (gain[torch.from_numpy(row).long(), torch.from_numpy(column).long()] < 0)


def _at(against: Float[Tensor, "depth height width"], level: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """How much each pixel's place is contradicted; nothing for pixels without a place."""
    value = against.gather(0, level.round().long().clamp(0, len(against) - 1)[None])[0]
    return torch.where(level >= 0, value, 0.0)


def _joined(
    level: Float[Tensor, "height width"], whole: Pieces, covered: Bool[Tensor, "height width"], voxel: float
) -> Float[Tensor, "height width"]:
    """The levels with those of thin pieces and of pixels between pieces; `-inf` where nothing is known.

    There, colours and normals are mixtures. They lie no deeper than where the wide pieces near them could go on.
    """
    wide = whole.wide
    least = torch.where(wide, level - _BORDER_PX * whole.slope / voxel, torch.inf)
    for _ in range(_BORDER_PX):
        least = -F.max_pool2d(-least[None], 3, stride=1, padding=1)[0]
    narrow = torch.minimum(torch.where(whole.label >= 0, level, torch.inf), least)
    known = covered & torch.isfinite(narrow)
    return torch.where(wide, level, torch.where(known, narrow, -torch.inf))


def _depths(cameras: Cameras, view: int, resolution: int) -> Float[Tensor, "depth"]:
    """z-depths a voxel apart over the whole cube."""
    pose = cameras.world_from_camera[view]
    middle = -float(pose[:3, 3] @ pose[:3, 2])
    reach = float(pose[:3, 2].abs().sum())
    return torch.arange(middle - reach, middle + reach, spacing(resolution))


@dataclass(frozen=True, kw_only=True)
class _Inside:
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


def _inside(views: Views, view: int, start: Float[Tensor, "z y x"]) -> _Inside:
    depths = _depths(views.cameras, view, start.shape[0])
    origins, directions = (r[0] for r in rays(views.cameras[[view]]))
    row, column = (views.alpha[view] > _COVERED).nonzero().unbind(-1)
    points = origins[row, column] + directions[row, column] * depths[:, None, None]
    values = sample(start, points)
    inner = values < 0
    [within] = _box(inner.any(1)) if bool(inner.any()) else [slice(0, 2)]
    depths, points, values, inner = depths[within], points[within], values[within], inner[within]
    level, number = inner.nonzero().unbind(-1)
    entry, pixels = inner.float().argmax(0), torch.arange(len(row))
    before, after = values[(entry - 1).clamp(min=0), pixels], values[entry, pixels]
    return _Inside(
        row=row,
        column=column,
        depths=depths,
        level=level,
        number=number,
        points=points[level, number],
        first=points[entry, pixels],
        hull=entry + (after / (before - after)).clamp(-1, 0).nan_to_num(),
    )


def _contradictions(views: Views, seen: _Seen, view: int, trusted: Sequence[int], start: Float[Tensor, "z y x"]) -> "_Swept":
    """What the trusted views nearest to one say about each depth of the pixels near its object, as means over nine of them."""
    rays_in = _inside(views, view, start)
    rows, columns = window = _box(views.alpha[view] > _COVERED)
    size = (len(rays_in.depths), *views.alpha[view][window].shape)
    pixel = (rays_in.row * views.cameras.width_px + rays_in.column)[rays_in.number]
    at = (rays_in.row - rows.start, rays_in.column - columns.start)
    row, column = (index[rays_in.number] for index in at)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[rays_in.level, row, column] = True
    others = _others(seen.cameras, view, trusted)
    against, asked = (torch.zeros(max(1, len(others)), *size) for _ in range(2))
    for number, other in enumerate(others):
        volume = torch.zeros(2, *size)
        volume[:, rays_in.level, row, column] = torch.stack(_answers(seen, view, other, rays_in.points, pixel))
        against[number], asked[number] = F.avg_pool2d(volume, 3, stride=1, padding=1)
    hull = torch.zeros(size[1:])
    hull[at] = rays_in.hull
    least = torch.where(asked > 0, against / asked.clamp(min=1e-6), torch.inf).amin(0)
    least = torch.where(torch.isinf(least), _UNKNOWN, least)
    entry = inside.float().argmax(0)
    ahead = torch.arange(size[0])[:, None, None] < entry
    # Rays that only touch the start are inside for less than a voxel.
    near = F.max_pool1d(inside.float().flatten(1).T, 3, stride=1, padding=1).T.reshape(size) > 0
    least = torch.where(inside, least, torch.where(near, _UNKNOWN, 1.0))
    cost = torch.where(ahead, least.gather(0, entry[None]), least)
    return _Swept(depths=rays_in.depths, hull=hull, cost=cost)


@dataclass(frozen=True, kw_only=True)
class _Swept:
    """What other views say about the depths of one view's pixels.

    Attributes:
        depths: z-depths, a voxel apart.
        hull: Level at which the ray of each pixel enters the start, between whole numbers.
        cost: How much each place is contradicted, by the view that does so least; fully behind the start.
    """

    depths: Float[Tensor, "depth"]
    hull: Float[Tensor, "height width"]
    cost: Float[Tensor, "depth height width"]


def _others(cameras: Cameras, view: int, trusted: Iterable[int]) -> list[int]:
    """The views that are asked about one, nearest first."""
    forward = cameras.world_from_camera[:, :3, 2]
    alike = forward @ forward[view]
    near = [other for other in trusted if other != view and alike[other] > _NEAR_COSINE]
    return sorted(near, key=lambda other: -float(alike[other]))[:_ASKED]


def _answers(
    seen: _Seen, view: int, other: int, points: Float[Tensor, "points 3"], here: Int[Tensor, "points"]
) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
    """Whether another view contradicts what one shows at points, and whether it can judge that."""
    against, asked = torch.zeros(len(points)), torch.zeros(len(points))
    forward = seen.cameras.world_from_camera[other, :3, 2]
    faced = (seen.normals[view, here] @ forward < -_FACING_COSINE).nonzero()[:, 0]
    there, _, inside = _pixel(seen.cameras[[other]], points[faced])
    inside &= torch.isfinite(seen.low[other, there, 0])
    faced, there = faced[inside], there[inside]
    mine = here[faced]
    gap = torch.maximum(seen.low[view, mine] - seen.high[other, there], seen.low[other, there] - seen.high[view, mine])
    against[faced] = ((gap[:, :3] > _COLOUR).any(-1) | (gap[:, 3:] > _NORMAL).any(-1)).float()
    asked[faced] = 1
    return against, asked


def _clear_sight(start: Tensor, points: Float[Tensor, "points 3"], forward: Float[Tensor, "3"]) -> Bool[Tensor, "points"]:
    """Whether points on the start's surface see a distant camera that looks along `forward`."""
    voxel = spacing(start.shape[0])
    away = torch.arange(_SIGHT_VOXELS, 1 / voxel, _SIGHT_VOXELS) * voxel
    return (sample(start, points[:, None] - away[:, None] * forward) > 0).all(1)


def _pixel(
    camera: Cameras, points: Float[Tensor, "points 3"]
) -> tuple[Int[Tensor, "points"], Float[Tensor, "points"], Bool[Tensor, "points"]]:
    """Flat index of the pixel of each point, its z-depth, and whether it lies in the picture."""
    pixels, z = project(camera, points[None])
    x, y = pixels[0].floor().long().unbind(-1)
    inside = (x >= 0) & (x < camera.width_px) & (y >= 0) & (y < camera.height_px) & (z[0] > 0)
    return torch.where(inside, y * camera.width_px + x, 0), z[0], inside
