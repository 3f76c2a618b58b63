"""How deep behind the hull a view's surface lies, as levels a voxel apart: two ways to tell, each with faults of its own.

Along the ray of a pixel, from the hull inwards, a place can be where the pixel's surface is only if the views that its normal
faces see the same colour and normal there.

Source: Collins, A space-sweep approach to true multi-image matching, 1996; normals beside colours, and the rules for what is
left open, are ours.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from img2mesh.neus.matching import NEVER, matched
from img2mesh.neus.pieces import Pieces
from img2mesh.neus.sight import Seen, Sight, answers, others

Way = Literal["pieces", "matching"]

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
# Levels at which a piece is tried, how far before the hull its pixels may be, and how far matched ones, voxels.
_STEP, _CONTACT, _CONTACT_MATCHED = 0.5, 0.25, 0.75
# This near to the depth at which it touches the hull a piece does touch it, and a matched part of one, voxels.
_NEAR_CONTACT, _NEAR_CONTACT_MATCHED = 1.0, 2.0
# Pixels between two wide pieces are this many at most.
_BORDER_PX = 2
# Beyond this behind the hull places cost more, by so much for each scene unit of a line: without a reason, nothing is hollow.
_HOLLOW_VOXELS, _HOLLOW = 1.0, 3.0
# What a surface pays to jump within a piece, and between pieces, and how steep it can be, voxels a pixel.
_JUMP_WITHIN, _JUMP_BETWEEN, _STEEPEST = 3.0, 0.5, 6.0
# Parts of a piece whose depths beyond its shape differ by this are two pieces, voxels.
_CUT_VOXELS = 6.0
# A surface this far before what other views left lies deeper, voxels, if it is not contradicted there by this much more.
_DEEPER_VOXELS, _NO_WORSE = 2.0, 0.1


@dataclass(frozen=True, kw_only=True)
class Swept:
    """What other views say about the depths of one view's pixels.

    Attributes:
        first: z-depth of the first level.
        voxel: From a level to the next, scene units.
        hull: Level at which the ray of each pixel enters the start, between whole numbers.
        cost: How much each place is contradicted, by the view that does so least; fully behind the start, and before it as much
            as where the ray enters it.
    """

    first: float
    voxel: float
    hull: Float[Tensor, "height width"]
    cost: Float[Tensor, "depth height width"]


def sweep(seen: Seen, view: int, trusted: Sequence[int], sight: Sight, window: tuple[slice, ...]) -> Swept:
    """What the trusted views nearest to one say about each depth of the pixels near its object, as means over nine of them."""
    rows, columns = window
    size = (len(sight.depths), rows.stop - rows.start, columns.stop - columns.start)
    level, number, points = sight.places()
    here = sight.pixel[number]
    at = (sight.row - rows.start, sight.column - columns.start)
    row, column = (index[number] for index in at)
    inside = torch.zeros(size, dtype=torch.bool)
    inside[level, row, column] = True
    least = torch.full(size, torch.inf)
    for other in others(seen.cameras, view, trusted):
        volume = torch.zeros(2, *size)
        volume[0, level, row, column], volume[1, level, row, column] = answers(seen, view, other, points, here)
        against, asked = _over_nine(volume)
        least = torch.minimum(least, torch.where(asked > 0, against / asked, torch.inf))
    hull = torch.zeros(size[1:])
    hull[at] = sight.hull
    least = torch.where(torch.isinf(least), _UNKNOWN, least)
    entry = inside.float().argmax(0)
    # Rays that only touch the start are inside for less than a voxel.
    near = F.max_pool1d(inside.float().flatten(1).T, 3, stride=1, padding=1).T.reshape(size) > 0
    cost = torch.where(inside, least, torch.where(near, _UNKNOWN, 1.0))
    ahead = torch.arange(size[0])[:, None, None] < entry
    cost = torch.where(ahead, cost.gather(0, entry[None]), cost)
    return Swept(first=float(sight.depths[0]), voxel=float(sight.depths[1] - sight.depths[0]), hull=hull, cost=cost)


def _over_nine(values: Float[Tensor, "*batch height width"]) -> Float[Tensor, "*batch height width"]:
    """Sums over each pixel and those around it; in a third of a pooling's time."""
    for side in (-1, -2):
        total, size = values.clone(), values.shape[side] - 1
        total.narrow(side, 1, size).add_(values.narrow(side, 0, size))
        total.narrow(side, 0, size).add_(values.narrow(side, 1, size))
        values = total
    return values


def levels(way: Way, whole: Pieces, swept: Swept, covered: Bool[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """Where a view's surface lies, by whole pieces or by matching; `-inf` where nothing is known.

    Matching parts two surfaces of one colour and one normal, and may part one that others hide in places. A piece as a whole
    takes the two for one.
    """
    level = _by_pieces(whole, swept) if way == "pieces" else _matched(whole, swept)
    return _joined(level, whole, covered, swept.voxel)


def _by_pieces(whole: Pieces, swept: Swept) -> Float[Tensor, "height width"]:
    """Level of each pixel of a piece, all of which lies in one place if that is right for all of it; -1 for other pixels."""
    level = _swept(whole, swept)
    # What is contradicted where the rest of its piece is right is another piece, further back.
    level = torch.maximum(level, _swept(whole.among(_opened(_at(swept.cost, level) > _WRONG)), swept))
    return torch.where(_dragged(level, swept), swept.hull, level)


def _swept(found: Pieces, swept: Swept) -> Float[Tensor, "height width"]:
    """Level of each pixel of a piece, where the least of the piece is contradicted; -1 for other pixels."""
    chosen, deepest = found.label >= 0, len(swept.cost) - 1
    label, hull, columns = found.label[chosen], swept.hull[chosen], swept.cost[:, chosen]
    count = torch.bincount(label, minlength=found.count).clamp(min=1)
    shape = found.depth[chosen] / swept.voxel
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


def _dragged(level: Float[Tensor, "height width"], swept: Swept) -> Bool[Tensor, "height width"]:
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


def _opened(flags: Bool[Tensor, "height width"]) -> Bool[Tensor, "height width"]:
    """The flags without what is nowhere three pixels wide."""
    core = -F.max_pool2d(-flags.float()[None], 3, stride=1, padding=1)
    return F.max_pool2d(core, 3, stride=1, padding=1)[0] > 0


def _at(against: Float[Tensor, "depth height width"], level: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    """How much each pixel's place is contradicted; nothing for pixels without a place."""
    value = against.gather(0, level.round().long().clamp(0, len(against) - 1)[None])[0]
    return torch.where(level >= 0, value, 0.0)


def _matched(whole: Pieces, swept: Swept) -> Float[Tensor, "height width"]:
    """Level of each pixel of a piece, matched on its own and then with all of its part of the piece; -1 for other pixels."""
    shape = whole.depth / swept.voxel
    level = torch.arange(len(swept.cost))[:, None, None]
    cost = swept.cost + _HOLLOW * swept.voxel * (level > swept.hull + _HOLLOW_VOXELS)
    cost = torch.where(level < swept.hull - _CONTACT_MATCHED, NEVER, cost)
    slope = (whole.slopes / swept.voxel).clamp(-_STEEPEST, _STEEPEST)
    jump = torch.where(whole.goes_on, _JUMP_WITHIN, _JUMP_BETWEEN)
    beyond = matched(cost, slope, jump) - shape
    # Two surfaces of one colour and one normal look like one piece: they part where the depths jump.
    parts = whole.cut(beyond, _CUT_VOXELS)
    chosen = parts.label >= 0
    label = parts.label[chosen]
    count = torch.bincount(label, minlength=parts.count)
    mean = torch.zeros(parts.count).index_add_(0, label, beyond[chosen]) / count
    touching = _touching((swept.hull - shape)[chosen], label, count)
    depth = torch.where((mean - touching).abs() < _NEAR_CONTACT_MATCHED, touching, mean)
    found = torch.full(parts.label.shape, -1.0)
    found[chosen] = (depth[label] + shape[chosen]).clamp(min=0)
    return found


def deepened(
    level: Float[Tensor, "height width"], whole: Pieces, swept: Swept, left: Float[Tensor, "height width"]
) -> Float[Tensor, "height width"]:
    """The levels, but for parts of pieces whose place others carved away: as deep as their shape must lie in what is left.

    A back panel and the frame before it look like one piece in the frame's place, until other views carve a wedge between them.

    Args:
        left: Level at which each pixel's ray meets what other views left.
    """
    parts = whole.among(_opened((level >= 0) & (left > torch.maximum(level, swept.hull) + _DEEPER_VOXELS)))
    chosen = parts.label >= 0
    label = parts.label[chosen]
    count = torch.bincount(label, minlength=parts.count).clamp(min=1)
    shape = whole.depth[chosen] / swept.voxel
    deep = level.clone()
    deep[chosen] = (_touching(left[chosen] - shape, label, count)[label] + shape).clamp(min=0)
    more = (_at(swept.cost, deep) - _at(swept.cost, left))[chosen]
    worse = torch.zeros(parts.count).index_add_(0, label, more) / count > _NO_WORSE
    deep[chosen] = torch.where(worse[label], level[chosen], deep[chosen])
    return deep


def _joined(
    level: Float[Tensor, "height width"], whole: Pieces, covered: Bool[Tensor, "height width"], voxel: float
) -> Float[Tensor, "height width"]:
    """The levels with those of thin pieces and of pixels between pieces; `-inf` where nothing is known.

    There, colours and normals are mixtures. They lie no deeper than where the wide pieces near them could go on.
    """
    wide = whole.wide
    least = torch.where(wide, level - _BORDER_PX * whole.slopes.abs().sum(0) / voxel, torch.inf)
    for _ in range(_BORDER_PX):
        least = -F.max_pool2d(-least[None], 3, stride=1, padding=1)[0]
    narrow = torch.minimum(torch.where(whole.label >= 0, level, torch.inf), least)
    known = covered & torch.isfinite(narrow)
    return torch.where(wide, level, torch.where(known, narrow, -torch.inf))
