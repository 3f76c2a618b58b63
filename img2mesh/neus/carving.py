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

# Differences that sampling explains: of colours in [0, 1], and of the components of normals.
_COLOUR, _NORMAL = 0.1, 0.25
# A view is asked about what another shows if that one's normal faces it at least by this cosine.
_FACING_COSINE = 0.25
# Of all views at most this many are asked, the nearest.
_ASKED = 4
# Pixels that are covered less than this show two things at once.
_COVERED = 0.95
# Share of contradictions in the window about a pixel: above the first the hull is wrong, below the second a place may be right.
_WRONG, _RIGHT = 0.7, 0.35
# So far before its place does a surface begin to look right.
_EARLY_VOXELS = 1.0
# Neighbouring pixels of one smooth surface differ by less than this in colour and normal, and by fewer voxels in depth.
_SMOOTH, _LINKED_VOXELS = 0.1, 4.0
# Normals of surfaces seen at less than this cosine tell too little about their depth.
_STEEP_COSINE = 0.3
# A neighbour's depth is taken over when it is deeper by this much; less than this behind the hull nothing is carved, voxels.
_TIE_VOXELS, _GAIN_VOXELS = 0.25, 0.75
# Steps along a line of sight, voxels.
_SIGHT_VOXELS = 2.0
# Views further apart than this are not asked about each other.
_NEAR_COSINE = 0.5
# A view that its neighbours contradict on more than this share of the hull's surface is wrong as a whole.
_DISTRUSTED = 0.6
_CHUNK = 1 << 20


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
    ahead, resolution = torch.full((start.numel(),), -torch.inf), start.shape[0]
    for view in trusted:
        depth = _depth(views, seen, view, trusted, start)
        if bool(torch.isfinite(depth).any()):
            for flat in torch.arange(start.numel()).split(_CHUNK):
                points = corner_points(flat, resolution)
                pixel, inside = _pixel(views.cameras[[view]], points)
                before = depth.view(-1)[pixel] - project(views.cameras[[view]], points[None])[1][0]
                ahead[flat] = torch.where(inside, torch.maximum(ahead[flat], before), ahead[flat])
    return torch.maximum(start, _as_distance(ahead.reshape(start.shape), start))


def _as_distance(ahead: Float[Tensor, "z y x"], start: Float[Tensor, "z y x"]) -> Float[Tensor, "z y x"]:
    """Signed distance to the boundary of what lies ahead of depth maps, whose own values jump where these do."""
    voxel, outside = spacing(start.shape[0]), (start >= 0).numpy()
    carved_out = (ahead > 0).numpy() & ~outside
    if not carved_out.any():
        return torch.full_like(start, -torch.inf)
    # It reaches into the space about the start, so that no shell stays between the two.
    empty = carved_out | (binary_dilation(carved_out, iterations=2) & outside)
    ahead = torch.where(torch.from_numpy(empty & outside), torch.inf, ahead)
    inner, outer = (distance_transform_edt(side).astype(np.float32) for side in (empty, ~empty))
    nearest = torch.from_numpy(np.where(empty, inner, outer)) * voxel
    return torch.sign(ahead) * torch.minimum(ahead.abs(), nearest)


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
) -> Float[Tensor, "height width"]:
    """z-depth up to which nothing is in a view; `-inf` where that is unknown."""
    voxel = spacing(start.shape[0])
    swept = _contradictions(views, seen, view, trusted, start)
    depths, hull = swept.depths, swept.inside.float().argmax(0)
    depth = _found(swept, hull, voxel)
    depth = _spread(depth, swept.inside & swept.likely, views, view, depths, voxel)
    carved_to = torch.where(depth > depths[hull] + _GAIN_VOXELS * voxel, depth, -torch.inf)
    return _to_borders(carved_to, depths[hull], views, view, voxel)


def _found(swept: "_Swept", hull: Int[Tensor, "height width"], voxel: float) -> Float[Tensor, "height width"]:
    """The depth of the hull; where a view with a clear sight of that contradicts it, the first that it does not contradict."""
    depths = swept.depths
    at_hull = swept.against.gather(1, (hull + 1).clamp(max=len(depths) - 1).expand(len(swept.against), 1, -1, -1))[:, 0]
    blamed = (at_hull >= _WRONG) & swept.clear
    agrees = ((swept.against <= _RIGHT) & swept.asked) | ~blamed[:, None]
    places = swept.inside & agrees.all(0)
    wrong = blamed.any(0) & places.any(0)
    return depths[hull] + wrong * (depths[places.float().argmax(0)] - depths[hull] + _EARLY_VOXELS * voxel)


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
        depths: z-depths, a voxel apart over the whole cube.
        level: Number of the depth of each place.
        number: Number of the pixel of each place.
        points: World positions of the places.
        first: Of the first place of each pixel.
    """

    row: Int[Tensor, "pixels"]
    column: Int[Tensor, "pixels"]
    depths: Float[Tensor, "depth"]
    level: Int[Tensor, "places"]
    number: Int[Tensor, "places"]
    points: Float[Tensor, "places 3"]
    first: Float[Tensor, "pixels 3"]


def _inside(views: Views, view: int, start: Float[Tensor, "z y x"]) -> _Inside:
    depths = _depths(views.cameras, view, start.shape[0])
    origins, directions = (r[0] for r in rays(views.cameras[[view]]))
    row, column = (views.alpha[view] > _COVERED).nonzero().unbind(-1)
    points = origins[row, column] + directions[row, column] * depths[:, None, None]
    inner = sample(start, points) < 0
    level, number = inner.nonzero().unbind(-1)
    first = points[inner.float().argmax(0), torch.arange(len(row))]
    return _Inside(row=row, column=column, depths=depths, level=level, number=number, points=points[level, number], first=first)


def _contradictions(views: Views, seen: _Seen, view: int, trusted: Sequence[int], start: Float[Tensor, "z y x"]) -> "_Swept":
    """What the trusted views nearest to one say about each depth of each of its pixels, as means over nine pixels."""
    rays_in = _inside(views, view, start)
    row, column = rays_in.row[rays_in.number], rays_in.column[rays_in.number]
    size = (len(rays_in.depths), *views.alpha.shape[1:])
    inside = torch.zeros(size, dtype=torch.bool)
    inside[rays_in.level, row, column] = True
    others = _others(seen.cameras, view, trusted)
    against, asked = (torch.zeros(max(1, len(others)), *size) for _ in range(2))
    clear = torch.zeros(len(against), *size[1:], dtype=torch.bool)
    for number, other in enumerate(others):
        volume = torch.zeros(2, *size)
        volume[:, rays_in.level, row, column] = torch.stack(_answers(seen, view, other, rays_in.points, row * size[2] + column))
        against[number], asked[number] = F.avg_pool2d(volume, 3, stride=1, padding=1)
        sight = _clear_sight(start, rays_in.first, seen.cameras.world_from_camera[other, :3, 2])
        clear[number, rays_in.row, rays_in.column] = sight
    return _Swept(depths=rays_in.depths, inside=inside, against=against / asked.clamp(min=1e-6), asked=asked > 0, clear=clear)


@dataclass(frozen=True, kw_only=True)
class _Swept:
    """What other views say about the depths of one view's pixels.

    Attributes:
        depths: z-depths, a voxel apart over the whole cube.
        inside: Places in the start.
        against: Share of contradictions of each asked view.
        asked: Whether the pixel's surface would face that view at all.
        clear: Whether nothing of the start hides the start's surface from that view.
    """

    depths: Float[Tensor, "depth"]
    inside: Bool[Tensor, "depth height width"]
    against: Float[Tensor, "other depth height width"]
    asked: Bool[Tensor, "other depth height width"]
    clear: Bool[Tensor, "other height width"]

    @property
    def likely(self) -> Bool[Tensor, "depth height width"]:
        """Places that one view agrees with, or that none can judge."""
        return ((self.against <= _RIGHT) & self.asked).any(0) | ~self.asked.any(0)


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
    there, inside = _pixel(seen.cameras[[other]], points[faced])
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


def _pixel(camera: Cameras, points: Float[Tensor, "points 3"]) -> tuple[Int[Tensor, "points"], Bool[Tensor, "points"]]:
    """Flat index of the pixel of each point, and whether it lies in the picture."""
    pixels, z = project(camera, points[None])
    x, y = pixels[0].floor().long().unbind(-1)
    inside = (x >= 0) & (x < camera.width_px) & (y >= 0) & (y < camera.height_px) & (z[0] > 0)
    return torch.where(inside, y * camera.width_px + x, 0), inside


def _spread(
    depth: Float[Tensor, "height width"],
    allowed: Bool[Tensor, "depth height width"],
    views: Views,
    view: int,
    depths: Float[Tensor, "depth"],
    voxel: float,
) -> Float[Tensor, "height width"]:
    """Depths carried from pixel to pixel along smooth surfaces, as the normals say: the deepest one holds.

    No part of a surface lies before the hull, and the normals tie its parts together: one that touches the hull places all.
    """
    slopes = _slopes(views, view)
    links = [_link(views, view, depth, slopes, move, voxel) for move in _MOVES]
    steps = [_step(slopes, move) for move in _MOVES]
    for _ in range(2 * max(depth.shape)):
        before = depth
        for move, link, step in zip(_MOVES, links, steps, strict=True):
            source = _moved(depth, move) + step
            level = ((source - depths[0]) / voxel).round().long().clamp(0, len(depths) - 1)
            better = link & (source > depth + _TIE_VOXELS * voxel) & allowed.gather(0, level[None])[0]
            depth = torch.where(better, source, depth)
        if torch.equal(depth, before):
            break
    return depth


def _to_borders(
    depth: Float[Tensor, "height width"], hull: Float[Tensor, "height width"], views: Views, view: int, voxel: float
) -> Float[Tensor, "height width"]:
    """The depths carried on to the left and right borders of each smooth surface, which links keep away from.

    Not up and down: a shelf that all views see edge-on is a row of pixels there.
    """
    for move in _MOVES[:2]:
        near = (_moved(hull, move) - hull).abs() < _LINKED_VOXELS * voxel
        depth = torch.where(_alike(views, view, move) & near & torch.isinf(depth), _moved(depth, move), depth)
    return depth


# Row and column steps to the neighbour a value comes from.
_MOVES = ((0, 1), (0, -1), (1, 0), (-1, 0))


def _moved(image: Tensor, move: tuple[int, int]) -> Tensor:
    return image.roll((-move[0], -move[1]), dims=(-2, -1))


def _slopes(views: Views, view: int) -> Float[Tensor, "2 height width"]:
    """Change of the z-depth from a pixel to the next row and to the next column, as the normals have it."""
    camera = views.cameras
    local = torch.einsum("ji,jhw->ihw", camera.world_from_camera[view, :3, :3], views.normals[view])
    towards = local[2].clamp(max=-0.1)
    distance = 1.0
    if camera.projection == "perspective":
        distance = float(camera.world_from_camera[view, :3, 3].norm())
    return -torch.stack([local[1], local[0]]) / towards * (distance / float(camera.focal_px[view]))


def _step(slopes: Float[Tensor, "2 height width"], move: tuple[int, int]) -> Float[Tensor, "height width"]:
    """What is added to a neighbour's depth on the way back from it: the mean of both slopes."""
    mean = (slopes + _moved(slopes, move)) / 2
    return -(move[0] * mean[0] + move[1] * mean[1])


def _link(
    views: Views, view: int, depth: Tensor, slopes: Tensor, move: tuple[int, int], voxel: float
) -> Bool[Tensor, "height width"]:
    """Whether a pixel and its neighbour are of one smooth surface."""
    inner = -F.max_pool2d(-(_alike(views, view, move) & _faced(views, view)).float()[None], 3, stride=1, padding=1)[0] > 0
    return inner & ((_moved(depth, move) + _step(slopes, move) - depth).abs() < _LINKED_VOXELS * voxel)


def _alike(views: Views, view: int, move: tuple[int, int]) -> Bool[Tensor, "height width"]:
    values = torch.cat([views.rgb[view], views.normals[view], views.alpha[view][None]])
    return ((values - _moved(values, move)).abs() < _SMOOTH).all(0) & (views.alpha[view] > _COVERED)


def _faced(views: Views, view: int) -> Bool[Tensor, "height width"]:
    forward = views.cameras.world_from_camera[view, :3, 2]
    return torch.einsum("j,jhw->hw", forward, views.normals[view]) < -_STEEP_COSINE
