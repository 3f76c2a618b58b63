"""Space that colours and normals rule out: how deep behind the hull true views place what they see.

A hull fills every hollow that no outline shows. Along the ray of a pixel, from the hull inwards, a place can be where the
pixel's surface is only if the views that its normal faces see the same colour and normal there. Where the hull itself is
contradicted and a place behind it is not, the space in between is empty.

Source: Collins, A space-sweep approach to true multi-image matching, 1996; normals beside colours, and the rules for what is
left open, are ours.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
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
# Views further apart than this are not asked about each other.
_NEAR_COSINE = 0.5
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
    field, resolution = start.clone().view(-1), start.shape[0]
    for view in range(len(views)):
        depth = _depth(views, seen, view, start)
        for flat in torch.arange(field.numel()).split(_CHUNK):
            points = corner_points(flat, resolution)
            pixel, inside = _pixel(views.cameras[[view]], points)
            ahead = depth.view(-1)[pixel] - project(views.cameras[[view]], points[None])[1][0]
            field[flat] = torch.where(inside, torch.maximum(field[flat], ahead), field[flat])
    return field.reshape(start.shape)


def _seen(views: Views) -> _Seen:
    values = torch.cat([views.rgb, views.normals], dim=1)
    certain = (views.alpha > _COVERED)[:, None]
    high = F.max_pool2d(torch.where(certain, values, -torch.inf), 3, stride=1, padding=1)
    low = -F.max_pool2d(torch.where(certain, -values, -torch.inf), 3, stride=1, padding=1)
    unknown = torch.isinf(high)
    ranges = torch.where(unknown, -torch.inf, low), torch.where(unknown, torch.inf, high), views.normals
    low, high, normals = (values.flatten(2).mT.contiguous() for values in ranges)
    return _Seen(cameras=views.cameras, low=low, high=high, normals=normals)


def _depth(views: Views, seen: _Seen, view: int, start: Float[Tensor, "z y x"]) -> Float[Tensor, "height width"]:
    """z-depth up to which nothing is in a view; `-inf` where that is unknown."""
    voxel = spacing(start.shape[0])
    depths = _depths(views.cameras, view, start.shape[0])
    share, inside = _contradictions(views, seen, view, start, depths)
    hull = inside.float().argmax(0)
    at_hull = share.gather(0, (hull + 1).clamp(max=len(depths) - 1)[None])[0]
    least = torch.where(inside, share, torch.inf).amin(0)
    places = inside & (share <= least + 0.1)
    first = places.float().argmax(0)
    wrong = inside.any(0) & (at_hull >= _WRONG) & (least <= _RIGHT)
    depth = depths[hull] + wrong * (depths[first] - depths[hull] + _EARLY_VOXELS * voxel)
    depth = _spread(depth, inside & (share <= _RIGHT), views, view, depths, voxel)
    return _to_borders(torch.where(depth > depths[hull] + _GAIN_VOXELS * voxel, depth, -torch.inf), views, view)


def _depths(cameras: Cameras, view: int, resolution: int) -> Float[Tensor, "depth"]:
    """z-depths a voxel apart over the whole cube."""
    pose = cameras.world_from_camera[view]
    middle = -float(pose[:3, 3] @ pose[:3, 2])
    reach = float(pose[:3, 2].abs().sum())
    return torch.arange(middle - reach, middle + reach, spacing(resolution))


def _contradictions(
    views: Views, seen: _Seen, view: int, start: Tensor, depths: Float[Tensor, "depth"]
) -> tuple[Float[Tensor, "depth height width"], Bool[Tensor, "depth height width"]]:
    """Share of asked views that contradict at each depth of each pixel, a mean over nine pixels; and what is in the start."""
    origins, directions = (r[0] for r in rays(views.cameras[[view]]))
    shown = (views.alpha[view] > _COVERED).nonzero()
    row, column = shown.unbind(-1)
    points = origins[row, column] + directions[row, column] * depths[:, None, None]
    inner = sample(start, points) < 0
    level, number = inner.nonzero().unbind(-1)
    against, asked = _asked(seen, view, points[level, number], row[number] * views.cameras.width_px + column[number])
    size = (3, len(depths), *views.alpha.shape[1:])
    volume = torch.zeros(size)
    volume[:, level, row[number], column[number]] = torch.stack([against, asked, torch.ones_like(asked)])
    counts = F.avg_pool2d(volume[:2], 3, stride=1, padding=1)
    return counts[0] / counts[1].clamp(min=1e-6), volume[2] > 0


def _asked(
    seen: _Seen, view: int, points: Float[Tensor, "points 3"], here: Int[Tensor, "points"]
) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
    """How many views contradict what one shows at points, and how many were asked."""
    forward = seen.cameras.world_from_camera[:, :3, 2]
    alike = forward @ forward[view]
    alike[view] = -1
    against, asked = torch.zeros(len(points)), torch.zeros(len(points))
    near, order = alike.sort(descending=True, stable=True)
    for other in order[near > _NEAR_COSINE][:_ASKED].tolist():
        faced = (seen.normals[view, here] @ forward[other] < -_FACING_COSINE).nonzero()[:, 0]
        there, inside = _pixel(seen.cameras[[other]], points[faced])
        inside &= torch.isfinite(seen.low[other, there, 0])
        faced, there = faced[inside], there[inside]
        mine = here[faced]
        gap = torch.maximum(seen.low[view, mine] - seen.high[other, there], seen.low[other, there] - seen.high[view, mine])
        against[faced] += ((gap[:, :3] > _COLOUR).any(-1) | (gap[:, 3:] > _NORMAL).any(-1)).float()
        asked[faced] += 1
    return against, asked


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

    No part of a surface lies before the hull, and the normals tie its parts together: where one touches the hull, all are known.
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


def _to_borders(depth: Float[Tensor, "height width"], views: Views, view: int) -> Float[Tensor, "height width"]:
    """The depths carried on to the last pixel of each smooth surface, and across the outline: no shell is to stay there."""
    for move in _MOVES:
        source = _moved(depth, move)
        depth = torch.where(_alike(views, view, move) & torch.isinf(depth), source, depth)
    outline = views.alpha[view] <= _COVERED
    for _ in range(2):
        depth = torch.where(outline & torch.isinf(depth), F.max_pool2d(depth[None], 3, stride=1, padding=1)[0], depth)
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


def _link(views: Views, view: int, depth: Tensor, slopes: Tensor, move: tuple[int, int], voxel: float) -> Bool[Tensor, "height width"]:
    """Whether a pixel and its neighbour are of one smooth surface."""
    inner = -F.max_pool2d(-(_alike(views, view, move) & _faced(views, view)).float()[None], 3, stride=1, padding=1)[0] > 0
    return inner & ((_moved(depth, move) + _step(slopes, move) - depth).abs() < _LINKED_VOXELS * voxel)


def _alike(views: Views, view: int, move: tuple[int, int]) -> Bool[Tensor, "height width"]:
    values = torch.cat([views.rgb[view], views.normals[view], views.alpha[view][None]])
    return ((values - _moved(values, move)).abs() < _SMOOTH).all(0) & (views.alpha[view] > _COVERED)


def _faced(views: Views, view: int) -> Bool[Tensor, "height width"]:
    forward = views.cameras.world_from_camera[view, :3, 2]
    return torch.einsum("j,jhw->hw", forward, views.normals[view]) < -_STEEP_COSINE
