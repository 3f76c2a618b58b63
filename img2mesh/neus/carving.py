"""Space that colours and normals rule out: how deep behind the hull true views place what they see.

A hull fills every hollow that no outline shows. Where colours and normals contradict the hull itself and not a place behind it
(`img2mesh.neus.levels`), the space in between is empty. Surfaces that were placed where others carved then lie deeper. Where
views contradict each other about the solid that matching leaves, whole pieces and the hull are tried.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.ndimage import binary_dilation
from torch import Tensor

from img2mesh.geometry.views import Views
from img2mesh.neus.grid import corner_points, sample, spacing
from img2mesh.neus.levels import Swept, Way, deepened, levels, sweep
from img2mesh.neus.pieces import Pieces, pieces
from img2mesh.neus.sight import COVERED, Seen, Sight, answers, box_of, looks, others, pixel_of, seen_in, sight_of

# What carving adds to distances outside the start, voxels.
_OUTSIDE_VOXELS = 0.05
# Where a covered pixel would be bare, so much of the start stays before and behind its surface, voxels.
_KEPT_BEFORE, _KEPT_BEHIND = 0.5, 1.5
# Distances to what is carved are told up to this, voxels.
_FAR_VOXELS = 6
# Less than this behind the hull nothing is carved, voxels.
_GAIN_VOXELS = 0.3
# Steps along a line of sight, voxels.
_SIGHT_VOXELS = 2.0
# A view that its neighbours contradict on more than this share of the hull's surface is wrong as a whole.
_DISTRUSTED = 0.6
# A point this far behind what a view sees of a solid is hidden from it, voxels.
_HIDDEN_VOXELS = 2.0
# What is contradicted less than this is not put in question; otherwise another solid is taken if it is by this much less so.
_FINE, _RATHER = 0.01, 0.7
# A solid's normals are wrong below this cosine; what their share counts beside the share of contradictions.
_BENT_COSINE, _BENT = 0.7, 0.05
# If more of the covered pixels than this share, for each other view, had to be kept covered, carving was wrong; what it counts.
_KEPT_SHARE, _KEPT = 0.006, 15.0
# Surfaces are placed deeper where that is this much of a view, unless so many times as much speaks against the outcome.
_MUCH, _NO_MORE = 0.15, 1.25

_DepthMap = Float[Tensor, "height width"]


@dataclass(frozen=True, kw_only=True)
class _Asked:
    """The part of a view that shows the object, its pieces, and what other views say about their depths."""

    window: tuple[slice, ...]
    whole: Pieces
    swept: Swept
    covered: Bool[Tensor, "height width"]


@dataclass(frozen=True, kw_only=True)
class _Left:
    """A solid, how much speaks against it, and the level where each view's rays meet it."""

    solid: Float[Tensor, "z y x"]
    blame: float
    met: Mapping[int, Int[Tensor, "pixels"]]


def carved(views: Views, start: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """The start without the space that true views rule out, scene units, positive outside.

    Args:
        views: True ones with normals, about as many pixels wide as the grid.
        start: Signed distance to a solid that contains the object.
    """
    if not bool((start < 0).any()):
        return start
    seen, sights = seen_in(views), [sight_of(views, view, start) for view in range(len(views))]
    trusted = [view for view in _trusted(seen, sights, start) if len(sights[view].row)]
    judges = {view: sights[view] for view in trusted}
    asked = {view: _asked(views, seen, view, trusted, sight) for view, sight in judges.items()}

    def judged(level: Mapping[int, _DepthMap]) -> _Left:
        """The solid behind these levels."""
        placed = {view: _placed(asked[view], level[view], views.alpha[view]) for view in judges}
        solid, kept = _behind(views, sights, start, placed)
        met = {view: sight.met(solid) for view, sight in judges.items()}
        blame = _blame(views, seen, judges, met, solid) + _KEPT * max(0.0, kept / max(1, len(judges) - 1) - _KEPT_SHARE)
        return _Left(solid=solid, blame=blame, met=met)

    def left(way: Way) -> _Left:
        """The solid that one way leaves."""
        level = {view: levels(way, one.whole, one.swept, one.covered) for view, one in asked.items()}
        first = judged(level)
        deeper = {view: _deepened(one, level[view], judges[view], first.met[view]) for view, one in asked.items()}
        if all(float((deeper[view] != level[view]).sum()) < _MUCH * len(sight.row) for view, sight in judges.items()):
            return first
        last = judged(deeper)
        return last if last.blame < _NO_MORE * first.blame else first

    chosen = left("matching")
    if chosen.blame < _FINE:
        return chosen.solid
    met = {view: sight.first() for view, sight in judges.items()}
    hull = _Left(solid=start, blame=_blame(views, seen, judges, met, start), met=met)
    other = min(hull, left("pieces"), key=lambda way: way.blame)
    return other.solid if other.blame < _RATHER * chosen.blame else chosen.solid


def _behind(
    views: Views, sights: Sequence[Sight], start: Float[Tensor, "z y x"], placed: Mapping[int, tuple[_DepthMap, _DepthMap]]
) -> tuple[Float[Tensor, "z y x"], float]:
    """The start behind depth maps, with what keeps each covered pixel covered, and the share of pixels that needed it."""
    solid = (start.reshape(-1) < 0).nonzero()[:, 0]
    points, ahead = corner_points(solid, start.shape[0]), torch.full((len(solid),), -torch.inf)
    for view, (_, empty) in placed.items():
        pixel, z, inside = pixel_of(views.cameras[[view]], points)
        ahead = torch.where(inside, torch.maximum(ahead, empty.view(-1)[pixel] - z), ahead)
    # Which pixels are bare, signs tell.
    signs = torch.full_like(start, -1.0).view(-1).index_copy_(0, solid, ahead.sign()).view_as(start)
    space, kept = torch.maximum(start, spacing(start.shape[0]) * signs), 0
    for view, (surface, _) in placed.items():
        sight, bare = sights[view], torch.zeros(views.alpha.shape[1:], dtype=torch.bool)
        bare[sight.row, sight.column] = sight.met(space) < 0
        kept += int(bare.sum())
        pixel, z, inside = pixel_of(views.cameras[[view]], points)
        behind = (z - surface.view(-1)[pixel]) / spacing(start.shape[0])
        ahead[inside & bare.view(-1)[pixel] & (behind > -_KEPT_BEFORE) & (behind < _KEPT_BEHIND)] = -torch.inf
    share = kept / max(1, sum(len(sights[view].row) for view in placed))
    return torch.maximum(start, _without(start, solid, ahead)), share


def _blame(
    views: Views,
    seen: Seen,
    sights: Mapping[int, Sight],
    met: Mapping[int, Int[Tensor, "pixels"]],
    field: Float[Tensor, "z y x"],
) -> float:
    """How much views contradict each other about what they see of a solid, where they meet it, and its normals."""
    maps = {view: _shown(views, sight, met[view]) for view, sight in sights.items()}
    wrong = judged = bent = shown = 0
    for view, sight in sights.items():
        hit = met[view] >= 0
        points, here = sight.at(met[view])[hit], sight.pixel[hit]
        facing = (_normals(field, points) * seen.normals[view, here]).sum(-1)
        bent, shown = bent + int((facing < _BENT_COSINE).sum()), shown + len(points)
        for other in others(seen.cameras, view, sights):
            against, asked = answers(seen, view, other, points, here)
            there, z, _ = pixel_of(views.cameras[[other]], points)
            visible = z < maps[other].view(-1)[there] + _HIDDEN_VOXELS * spacing(field.shape[0])
            wrong, judged = wrong + int((against * visible).sum()), judged + int((asked * visible).sum())
    return wrong / max(judged, 1) + _BENT * bent / max(shown, 1)


def _shown(views: Views, sight: Sight, met: Int[Tensor, "pixels"]) -> _DepthMap:
    """z-depth of what each pixel sees of a solid, given the level where its ray meets it; `inf` where it sees nothing."""
    depth = torch.full(views.alpha.shape[1:], torch.inf)
    hit = met >= 0
    depth[sight.row[hit], sight.column[hit]] = sight.depths[met[hit]]
    return depth


def _normals(field: Float[Tensor, "z y x"], points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    steps = spacing(field.shape[0]) * torch.eye(3)
    return F.normalize(
        torch.stack([sample(field, points + step) - sample(field, points - step) for step in steps], dim=-1), dim=-1
    )


def _without(start: Float[Tensor, "z y x"], solid: Int[Tensor, "solid"], ahead: Float[Tensor, "solid"]) -> Tensor:
    """Signed distance to the space ahead of depth maps, given how far ahead of them the solid's voxels are."""
    everywhere = torch.full((start.numel(),), -torch.inf).index_copy_(0, solid, ahead)
    return _as_distance(everywhere.reshape(start.shape), start)


def _as_distance(ahead: Float[Tensor, "z y x"], start: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Signed distance to the boundary of what lies ahead of depth maps, whose own values jump where these do."""
    voxel, near = spacing(start.shape[0]), box_of(start < 0)
    distance, ahead = torch.full_like(start, -torch.inf), ahead[near]
    outside = (start[near] >= 0).numpy()
    carved_out = (ahead > 0).numpy() & ~outside
    if not carved_out.any():
        return distance
    # It reaches just into the space about the start: no shell stays between the two, and the start's own surface where it is.
    empty = carved_out | (binary_dilation(carved_out, iterations=2) & outside)
    ahead = torch.where(torch.from_numpy(empty & outside), _OUTSIDE_VOXELS * voxel, ahead)
    inside = torch.from_numpy(empty)
    nearest = torch.where(inside, _to_others(inside), _to_others(~inside)) * voxel
    distance[near] = torch.sign(ahead) * torch.minimum(ahead.abs(), nearest)
    return distance


def _to_others(flags: Bool[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Distance of each flagged voxel to the nearest that is not, voxels, up to `_FAR_VOXELS`: a tenth of a transform's time."""
    squared = flags.byte() * _FAR_VOXELS**2
    for side in range(3):
        least, size = squared.clone(), squared.shape[side]
        for step in range(1, min(_FAR_VOXELS, size - 1) + 1):
            lower, upper = (0, size - step), (step, size - step)
            for here, there in ((lower, upper), (upper, lower)):
                near = least.narrow(side, *here)
                torch.minimum(near, squared.narrow(side, *there) + step**2, out=near)
        squared = least
    return squared.float().sqrt()


def _trusted(seen: Seen, sights: Sequence[Sight], start: Float[Tensor, "z y x"]) -> list[int]:
    """The views that do not contradict most of what their neighbours see of the hull: one with wrong normals is left out."""
    blame = torch.full((len(sights), len(sights)), torch.nan)
    for view, sight in enumerate(sights):
        first = sight.first()
        points, pixel = sight.at(first)[first >= 0], sight.pixel[first >= 0]
        for other in others(seen.cameras, view, range(len(sights))):
            against, asked = answers(seen, view, other, points, pixel)
            clear = _clear_sight(start, points, looks(seen.cameras, other, points))
            blame[view, other] = (against * clear).sum() / (asked * clear).sum()
    blame = torch.stack([blame, blame.T]).nanmean(0)
    trusted = list(range(len(sights)))
    while trusted:
        worst = blame[trusted][:, trusted].nanmean(1).nan_to_num()
        if float(worst.max()) <= _DISTRUSTED:
            break
        del trusted[int(worst.argmax())]
    return trusted


def _asked(views: Views, seen: Seen, view: int, trusted: Sequence[int], sight: Sight) -> _Asked:
    covered = views.alpha[view] > COVERED
    window = box_of(covered)
    swept = sweep(seen, view, trusted, sight, window)
    entry = torch.full_like(views.alpha[view], float(sight.depths.mean()))
    entry[sight.row, sight.column] = swept.first + sight.hull * swept.voxel
    return _Asked(window=window, whole=pieces(views, view, entry).within(window), swept=swept, covered=covered[window])


def _deepened(one: _Asked, level: _DepthMap, sight: Sight, met: Int[Tensor, "pixels"]) -> _DepthMap:
    left = torch.full_like(level, -1.0)
    left[sight.row - one.window[0].start, sight.column - one.window[1].start] = met.float()
    return deepened(level, one.whole, one.swept, left)


def _placed(one: _Asked, level: _DepthMap, alpha: _DepthMap) -> tuple[_DepthMap, _DepthMap]:
    """z-depth of a view's surface, and up to which the start is empty; `-inf` where that is not known."""
    surface, empty = (torch.full_like(alpha, -torch.inf) for _ in range(2))
    surface[one.window] = one.swept.first + torch.maximum(level, one.swept.hull) * one.swept.voxel
    empty[one.window] = torch.where(level > one.swept.hull + _GAIN_VOXELS, surface[one.window], -torch.inf)
    return surface, empty


def _clear_sight(start: Tensor, points: Float[Tensor, "points 3"], looks: Float[Tensor, "points 3"]) -> Bool[Tensor, "points"]:
    """Whether points on the start's surface are seen by a camera outside, given the directions in which it sees them."""
    voxel = spacing(start.shape[0])
    away = torch.arange(_SIGHT_VOXELS, 1 / voxel, _SIGHT_VOXELS) * voxel
    return (sample(start, points[:, None] - away[:, None] * looks[:, None]) > 0).all(1)
