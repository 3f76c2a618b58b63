"""Legs, arms and handles: what the front shows and the other views leave nothing of, as rods behind the front's pixels.

Generated views often miss thin parts, or have them in other places each. How wide such a part is, the front tells; how deep it
lies, the least that speaks against it, together with the rule that it goes on from each pixel to the next.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, depths_through, rays
from img2mesh.geometry.views import Views
from img2mesh.neus.grid import corner_points
from img2mesh.neus.hull import Hull
from img2mesh.neus.matching import matched
from img2mesh.neus.sight import pixel_of

# Cost of a place that a view does not cover at all; and for each pixel that it lies outside of what the views leave.
_WRONG, _NEARER = 6.0, 0.05
# A rod is no deeper than what views cover at least this much as they do its middle.
_ALIKE = 0.7
# What a part pays to go on at another depth.
_JUMP = 12.0
# With less than this of the hull on its ray, a pixel of the front is bare, pixels.
_BARE_PX = 0.5
# Rods reach this far into what they hang on; their width is looked for as far away.
_OVERLAP_PX = 2
# Half the depth of rods: at least in pixels, at most in scene units.
_THIN_PX, _THICK = 1.0, 0.2


@dataclass(frozen=True, kw_only=True)
class Limbs:
    """Rods along the front's rays.

    Attributes:
        front: One camera.
        middle: z-depth of the rod's middle.
        half: Half its depth, scene units; `-inf` where there is none.
    """

    front: Cameras
    middle: Float[Tensor, "height width"]
    half: Float[Tensor, "height width"]

    def sdf(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points"]:
        """How far before or behind the rod a point lies that has one in its pixel, scene units; `inf` where there is none."""
        pixel, z, inside = pixel_of(self.front, points)
        beyond = (z - self.middle.view(-1)[pixel]).abs() - self.half.view(-1)[pixel]
        return torch.where(inside, beyond, torch.inf)

    def with_hull(self, hull: Hull, resolution: int) -> tuple[Float[Tensor, "z y x"], Float[Tensor, "z y x"]]:
        """The hull with the rods, and the front's silhouette, as signed distances on the corners of a grid."""
        start, front = hull.on_grid(resolution)
        points = corner_points(torch.arange(start.numel(), device=start.device), resolution)
        return torch.minimum(start, torch.maximum(front, self.sdf(points).view_as(start))), front

    def shown_in(self, views: Views) -> Views:
        """The views with the rods in them: covered fully, and in the front's colours where they show nothing."""
        row, column = torch.isfinite(self.half).nonzero().unbind(-1)
        origins, directions = (r[0].expand(*self.half.shape, 3)[row, column] for r in rays(self.front))
        # Pixels of other views are as large: so many steps leave out none of them.
        steps = torch.linspace(-1, 1, int(_THICK * views.alpha.shape[-1]) + 2, device=row.device)[:, None]
        depths = self.middle[row, column] + steps * self.half[row, column]
        points = (origins + directions * depths[..., None]).reshape(-1, 3)
        rgb, alpha = views.rgb.clone(), views.alpha.clone()
        cameras = views.cameras.to(points.device)
        here = pixel_of(cameras[[0]], points)[0]
        for view in range(1, len(views)):
            there, _, inside = pixel_of(cameras[[view]], points)
            new = inside & (alpha[view].view(-1)[there] < 0.5)
            rgb[view].view(3, -1)[:, there[new]] = views.rgb[0].reshape(3, -1)[:, here[new]]
            alpha[view].view(-1)[there[inside]] = 1.0
        return replace(views, rgb=rgb, alpha=alpha)


def limbs(hull: Hull, alpha: Float[Tensor, "view height width"]) -> Limbs | None:
    """Rods for all pixels of the front that the other views leave bare, if there are any.

    Args:
        alpha: Coverage of which the hull was made: where it is below one half, it still tells what is likelier.
    """
    front = hull.cameras[:1].to(hull.contours.device)
    depths = depths_through(front, front.width_px)
    pixel = (float(depths.mean()) if front.projection == "perspective" else 1.0) / float(front.focal_px[0])
    inner = -F.adaptive_avg_pool2d(hull.contours[:1], (front.height_px, front.width_px))[0]
    shown = inner > 0
    origins, directions = (r[0].expand(*shown.shape, 3)[shown] for r in rays(front))
    layers = [origins + directions * z for z in depths]
    outside = torch.stack([hull.others(points) for points in layers]) / pixel
    bare = torch.zeros_like(inner).masked_scatter_(shown, (outside.amin(0) > -_BARE_PX).float())
    if not bool(bare.any()):
        return None
    covered = torch.stack([_coverage(hull, alpha, points) for points in layers])
    cost = torch.zeros(len(depths), *shown.shape, device=inner.device)
    cost[:, shown] = _WRONG * (1 - 2 * covered).clamp(min=0) + _NEARER * outside.clamp(min=0)
    level = matched(cost, torch.zeros_like(cost[:2]), _jumps(shown))
    near = shown & (_highest(bare) > 0)
    alike = (covered >= _ALIKE * covered.gather(0, level[shown][None])).sum(0) / 2
    half = torch.minimum(_half(inner * near, _THICK / pixel)[shown], alike.clamp(min=_THIN_PX)) * pixel
    half = torch.full_like(inner, -torch.inf).masked_scatter_(shown, half)
    return Limbs(front=front, middle=depths[level], half=torch.where(near, half, -torch.inf))


def _coverage(hull: Hull, alpha: Float[Tensor, "view height width"], points: Float[Tensor, "points 3"]) -> Tensor:
    """What the views that cover a point least have there; views that carve together count as the one that covers more."""
    cameras, least = hull.cameras.to(points.device), torch.full(points.shape[:1], torch.inf, device=points.device)
    for group in hull.groups:
        most = torch.zeros_like(least)
        for view in group:
            pixel, _, inside = pixel_of(cameras[[view]], points)
            most = torch.maximum(most, alpha[view].view(-1)[pixel] * inside)
        least = torch.minimum(least, most)
    return least


def _jumps(shown: Tensor) -> Float[Tensor, "2 height width"]:
    """What it costs to go on at another depth from each pixel: nothing to and from the background."""
    jumps = torch.zeros(2, *shown.shape, device=shown.device)
    jumps[0, :-1] = _JUMP * (shown[:-1] & shown[1:])
    jumps[1, :, :-1] = _JUMP * (shown[:, :-1] & shown[:, 1:])
    return jumps


def _half(inner: Float[Tensor, "height width"], thick_px: float) -> Float[Tensor, "height width"]:
    """Half the depth of a round rod at pixels so far from its outline, pixels."""
    radius = _highest(inner).clamp(max=thick_px)
    from_rim = torch.minimum(inner, radius)
    return (from_rim * (2 * radius - from_rim)).sqrt().clamp(min=_THIN_PX)


def _highest(values: Float[Tensor, "height width"]) -> Float[Tensor, "height width"]:
    return F.max_pool2d(values[None], 2 * _OVERLAP_PX + 1, stride=1, padding=_OVERLAP_PX)[0]
