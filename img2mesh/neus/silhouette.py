"""The promise to the person who gave the picture: what it shows is there, and nothing else is seen from its side."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, depths_through, project, rays
from img2mesh.neus.grid import corner_points, resampled, sample, spacing
from img2mesh.neus.hull import build_hull

_STEP_VOXELS = 0.5
# A ray that passes less than this below the surface is bare.
_COVERED_VOXELS = 0.25
# A bare ray that passes the surface within this distance knows by itself how deep a bridge belongs.
_NEAR_VOXELS = 1.0
_BRIDGE_HALF_VOXELS = 1.5
# Bridges reach this far into what they are to join.
_OVERLAP_PX = 2
# Of the samples on a ray that runs deep through the solid, one in so many is looked at.
_SPARSE = 8
_CHUNK = 1 << 20


def refined(
    sdf: Float[Tensor, "z y x"], cameras: Cameras, alpha: Float[Tensor, "height width"], resolution: int
) -> Float[Tensor, "resolution resolution resolution"]:
    """The field on the grid of the extraction, matched to the picture's own outline; see `match_outline`."""
    # Two pixels a voxel place the outline within the voxel.
    [small] = F.adaptive_avg_pool2d(alpha[None], min(2 * resolution, alpha.shape[-1]))
    return match_outline(resampled(sdf, resolution), cameras, small)


def match_outline(
    sdf: Float[Tensor, "z y x"], cameras: Cameras, alpha: Float[Tensor, "height width"]
) -> Float[Tensor, "z y x"]:
    """The field cut to the front's outline, and bridged wherever a foreground pixel of the front would be empty.

    A bridge has exactly the outline's width and is three voxels deep; it continues the nearest part of the solid, so wires that
    are thinner than the voxels of the fit come back whole.

    Args:
        alpha: The front's coverage, of any size; view 0 of the cameras is the front.

    Raises:
        NumericalError: The front has no foreground.
    """
    front = cameras[:1].resized(alpha.shape[1], alpha.shape[0]).to(sdf.device)
    outline = build_hull(front, alpha[None], slack_px=0.0)
    depth, bare = _bridges(sdf, front, alpha)
    resolution = sdf.shape[0]
    half = _BRIDGE_HALF_VOXELS * spacing(resolution)
    matched = sdf.reshape(resolution, -1).clone()
    for number, corners in enumerate(torch.arange(sdf.numel(), device=sdf.device).split(resolution**2)):
        # Parallel rays of the front run along z: every layer of the grid looks the same to it.
        if number == 0 or front.projection == "perspective":
            points = corner_points(corners, resolution)
            inside = outline.front(points)
            [pixels], _ = project(front, points[None])
            x, y = (pixels[:, axis].long().clamp(0, side - 1) for axis, side in enumerate((alpha.shape[1], alpha.shape[0])))
            bridged = bare[y, x].nonzero()[:, 0]
            middle = depth[y, x][bridged]
        layer = torch.maximum(matched[number], inside)
        _, [z] = project(front, corner_points(corners[bridged], resolution)[None])
        bridge = torch.maximum(inside[bridged], (z - middle).abs() - half)
        layer[bridged] = torch.minimum(layer[bridged], bridge)
        matched[number] = layer
    return matched.reshape(sdf.shape)


def _bridges(sdf: Tensor, front: Cameras, alpha: Tensor) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """The z-depth at which a bridge belongs, known only in the pixels where one is needed; and which these are."""
    voxel = spacing(sdf.shape[0])
    foreground = alpha >= 0.5
    lowest = torch.full_like(alpha, torch.inf)
    # Most rays run deep through the solid, which a few samples show; the others are followed closely.
    lowest[foreground] = _lowest_on_rays(sdf, front, foreground, every=_SPARSE)[1]
    unsure = foreground & (lowest > -_COVERED_VOXELS * voxel)
    lowest[unsure] = _lowest_on_rays(sdf, front, unsure)[1]
    solid = lowest < max(_NEAR_VOXELS * voxel, float(lowest.min()) + voxel)
    nearest = distance_transform_edt(~solid.cpu().numpy(), return_distances=False, return_indices=True)
    row, column = torch.from_numpy(nearest).long().to(sdf.device)
    bare = (foreground & (lowest > -_COVERED_VOXELS * voxel)).float()
    spread = F.max_pool2d(bare[None], 2 * _OVERLAP_PX + 1, stride=1, padding=_OVERLAP_PX)[0] > 0
    continued = torch.zeros_like(foreground)
    continued[row[spread], column[spread]] = True
    depth = torch.zeros_like(alpha)
    depth[continued] = _lowest_on_rays(sdf, front, continued)[0]
    return depth[row, column], spread


def _lowest_on_rays(
    sdf: Tensor, front: Cameras, chosen: Bool[Tensor, "height width"], *, every: int = 1
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Where along each ray the field is lowest, as z-depth, and how low; only every so manyth sample is looked at."""
    origins, directions = (r[0][chosen] for r in rays(front))
    depths = depths_through(front, int(2 / (_STEP_VOXELS * spacing(sdf.shape[0]))))[::every]
    places, values = [], []
    size = max(1, _CHUNK // len(depths))
    for o, d in zip(torch.split(origins, size), torch.split(directions, size), strict=True):
        value, best = sample(sdf, o[:, None] + d[:, None] * depths[:, None]).min(dim=1)
        places.append(depths[best])
        values.append(value)
    return torch.cat(places), torch.cat(values)
