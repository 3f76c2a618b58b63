"""The solid that a fit starts from: a visual hull that forgives views which disagree, but never empties a ray of the front.

A hull carves wherever any one view sees background, so one wrong view destroys it. Here the front's mask is the truth; of two
views that face each other both must see background; and where the others leave nothing behind a foreground pixel of the front,
they are slackened there until as much is left as they agree on best. Generated views get rods there instead (`limbs.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import Cameras, depths_through, facing, rays
from img2mesh.neus.grid import corner_points, spacing

# Contours are placed to a quarter of a pixel.
_SUBPIXELS = 4
_CHUNK = 1 << 18


@dataclass(frozen=True, kw_only=True)
class Hull:
    """Distances to the contours of the masks.

    Attributes:
        cameras: Cameras of the images the contours were taken from.
        contours: Signed distance in the image, pixels, positive in the background; `-inf` in a view without foreground.
        groups: Views that carve together, only where all of them see background; the front is not among them.
        slack: How much further out the other views carve behind each pixel of the front, scene units.
    """

    cameras: Cameras
    contours: Float[Tensor, "view height width"]
    groups: tuple[tuple[int, ...], ...]
    slack: Float[Tensor, "height width"]

    def front(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Signed distance to the front's silhouette, scene units."""
        return _look_up(self.contours, self.cameras, 0, points)

    def others(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Signed distance to what the other views leave, scene units, without slack."""
        outermost = torch.full(points.shape[:1], -torch.inf, device=points.device)
        for group in self.groups:
            seen = [_look_up(self.contours, self.cameras, view, points) for view in group]
            outermost = torch.maximum(outermost, torch.stack(seen).amin(0))
        return outermost

    def sdf(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """Signed distance to the forgiving hull, scene units, positive outside."""
        return self._with_front(points)[0]

    def on_grid(self, resolution: int) -> tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]:
        """The hull and the front's silhouette as signed distances on the corners of a grid."""
        count = resolution**3
        hull, front = (torch.empty(count, device=self.contours.device) for _ in range(2))
        for start in range(0, count, _CHUNK):
            flat = torch.arange(start, min(start + _CHUNK, count), device=hull.device)
            hull[start : start + _CHUNK], front[start : start + _CHUNK] = self._with_front(corner_points(flat, resolution))
        return hull.reshape((resolution,) * 3), front.reshape((resolution,) * 3)

    def _with_front(self, points: Float[Tensor, "points 3"]) -> tuple[Float[Tensor, "points"], Float[Tensor, "points"]]:
        pixels, unit = _pixels(self.cameras, 0, points)
        front = _sample_image(self.contours[0], pixels, self.cameras) * unit
        slack = _sample_image(self.slack, pixels, self.cameras)
        return torch.maximum(front, self.others(points) - slack), front


def build_hull(cameras: Cameras, alpha: Float[Tensor, "view height width"], *, slack_px: float) -> Hull:
    """The hull of the masks.

    Args:
        alpha: Coverage in [0, 1]; half is the contour.
        slack_px: How far outside its contour any view but the front leaves things alone, pixels.

    Raises:
        NumericalError: The front has no foreground.
    """
    if not bool((alpha[0] >= 0.5).any()):
        raise NumericalError("expected foreground in the front's mask, found none: there is no surface to fit")
    slack = torch.full(alpha.shape[1:], slack_px / float(cameras.focal_px[0]), device=alpha.device)
    if cameras.projection == "perspective":
        slack = slack * cameras.world_from_camera[0, :3, 3].norm()
    return Hull(cameras=cameras, contours=contours_of(alpha), groups=_groups(cameras), slack=slack)


def with_room(hull: Hull, resolution: int) -> Hull:
    """The hull with so much slack that half a voxel of a grid is left behind every foreground pixel of the front.

    Half a voxel is what thin parts often have anyway; there is no slack at the rim of what has enough.
    """
    if not hull.groups:
        return hull
    needed = _best_on_front_rays(hull, resolution) + spacing(resolution) * 0.5
    least = torch.where(torch.isinf(needed), torch.inf, needed)
    least = -F.max_pool2d(-least[None], 3, stride=1, padding=1)[0]
    needed = torch.where(least > 0, needed, -torch.inf)
    # Slack is interpolated between pixels, so the neighbours of a pixel need as much as the pixel.
    spread = F.max_pool2d(needed[None], 3, stride=1, padding=1)[0]
    return replace(hull, slack=torch.maximum(hull.slack, spread))


def contours_of(alpha: Float[Tensor, "view height width"]) -> Float[Tensor, "view fine_height fine_width"]:
    """Signed distance of every quarter pixel to the contour alpha = 1/2, pixels, positive in the background."""
    fine = F.interpolate(alpha[:, None], scale_factor=_SUBPIXELS, mode="bilinear", align_corners=False)[:, 0]
    maps = [_signed_distance((view >= 0.5).cpu().numpy()) for view in fine]
    return torch.from_numpy(np.stack(maps)).to(alpha.device)


def _signed_distance(inside: np.ndarray) -> np.ndarray:
    if not inside.any():
        return np.full(inside.shape, -np.inf, dtype=np.float32)
    out = _distance(~inside) if not inside.all() else np.zeros(inside.shape)
    deep = _distance(np.pad(inside, 1))[1:-1, 1:-1]
    # Distances run between cell centres; the contour lies half a cell before the nearest cell of the other kind.
    return (np.where(inside, 0.5 - deep, out - 0.5) / _SUBPIXELS).astype(np.float32)


def _distance(flags: np.ndarray) -> np.ndarray:
    """Distance of each flagged cell to the nearest that is not, exact below some 2,000 cells; some are not flagged."""
    rounded = cv2.distanceTransform(flags.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE).astype(np.float64)
    # Squares of distances between cells are whole.
    return np.sqrt(np.rint(rounded * rounded))


def _groups(cameras: Cameras) -> tuple[tuple[int, ...], ...]:
    """Views by what they carve: pairs of parallel projections from opposite sides share one silhouette."""
    if cameras.projection != "orthographic":
        return tuple((view,) for view in range(1, len(cameras)))
    opposite = facing(cameras)
    # Whoever faces the front has the front's silhouette, and the front's mask is the truth.
    left = [view for view in range(1, len(cameras)) if not opposite[view, 0]]
    groups = []
    while left:
        group = (left[0], *(view for view in left if opposite[left[0], view]))
        left = [view for view in left if view not in group]
        groups.append(group)
    return tuple(groups)


def _best_on_front_rays(hull: Hull, resolution: int) -> Float[Tensor, "height width"]:
    """The lowest distance that the other views leave along each ray of the front's foreground; `-inf` for other rays."""
    chosen = F.max_pool2d((hull.contours[0] < 0).float()[None], _SUBPIXELS)[0] > 0
    best = torch.full(chosen.shape, -torch.inf, device=chosen.device)
    found = [hull.others(points).reshape(-1, resolution).amin(1) for points in _front_points(hull, chosen, resolution)]
    best[chosen] = torch.cat(found)
    return best


def _front_points(hull: Hull, chosen: Bool[Tensor, "height width"], resolution: int) -> Iterator[Float[Tensor, "points 3"]]:
    front = hull.cameras[:1].to(chosen.device)
    origins, directions = (r[0][chosen] for r in rays(front))
    depths = depths_through(front, resolution)
    size = max(1, _CHUNK // resolution)
    for o, d in zip(torch.split(origins, size), torch.split(directions, size), strict=True):
        yield (o[:, None] + d[:, None] * depths[:, None]).reshape(-1, 3)


def _pixels(cameras: Cameras, view: int, points: Float[Tensor, "points 3"]) -> tuple[Tensor, Tensor]:
    """Pixel positions in one view and the scene units of one pixel there."""
    pose = cameras.world_from_camera[view].to(points.device)
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    focal = float(cameras.focal_px[view])
    scale = local[:, 2:].clamp(min=1e-6) if cameras.projection == "perspective" else torch.ones_like(local[:, 2:])
    return local[:, :2] / scale * focal + cameras.centre_px[view].to(points.device), scale[:, 0] / focal


def _look_up(contours: Tensor, cameras: Cameras, view: int, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
    if bool(torch.isinf(contours[view, 0, 0])):
        return torch.full(points.shape[:1], -torch.inf, device=points.device)
    pixels, unit = _pixels(cameras, view, points)
    return _sample_image(contours[view], pixels, cameras) * unit


def _sample_image(image: Float[Tensor, "height width"], pixels: Float[Tensor, "points 2"], cameras: Cameras) -> Tensor:
    size = torch.tensor([cameras.width_px, cameras.height_px], device=pixels.device)
    places = (pixels / size * 2 - 1)[None, :, None]
    return F.grid_sample(image[None, None], places, align_corners=False, padding_mode="border")[0, 0, :, 0]
