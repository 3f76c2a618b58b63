"""The promise to the person who gave the picture: what it shows is there, and nothing else is seen from its side."""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, project, rays
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
    front = cameras[:1].resized(alpha.shape[1], alpha.shape[0])
    outline = build_hull(front, alpha[None], slack_px=0.0)
    depth, bare = _bridges(sdf, front, alpha)
    resolution, values = sdf.shape[0], sdf.reshape(-1)
    half = _BRIDGE_HALF_VOXELS * spacing(resolution)
    chunks = []
    for flat in torch.arange(values.numel(), device=sdf.device).split(_CHUNK):
        points = corner_points(flat, resolution)
        pixels, z = project(front.to(sdf.device), points[None])
        x, y = (pixels[0, :, axis].long().clamp(0, side - 1) for axis, side in enumerate((alpha.shape[1], alpha.shape[0])))
        inside = outline.front(points)
        trimmed = torch.maximum(values[flat], inside)
        bridge = torch.maximum(inside, (z[0] - depth[y, x]).abs() - half)
        chunks.append(torch.where(bare[y, x], torch.minimum(trimmed, bridge), trimmed))
    return torch.cat(chunks).reshape(sdf.shape)


def _bridges(sdf: Tensor, front: Cameras, alpha: Tensor) -> tuple[Float[Tensor, "height width"], Bool[Tensor, "height width"]]:
    """The z-depth at which a bridge belongs in each pixel, and the pixels where one is needed."""
    voxel = spacing(sdf.shape[0])
    foreground = alpha >= 0.5
    depth = torch.zeros_like(alpha)
    lowest = torch.full_like(alpha, torch.inf)
    depth[foreground], lowest[foreground] = _lowest_on_rays(sdf, front, foreground)
    solid = lowest < max(_NEAR_VOXELS * voxel, float(lowest.min()) + voxel)
    nearest = distance_transform_edt(~solid.cpu().numpy(), return_distances=False, return_indices=True)
    row, column = torch.from_numpy(nearest).long().to(sdf.device)
    bare = (foreground & (lowest > -_COVERED_VOXELS * voxel)).float()
    spread = F.max_pool2d(bare[None], 2 * _OVERLAP_PX + 1, stride=1, padding=_OVERLAP_PX)[0] > 0
    return depth[row, column], spread


def _lowest_on_rays(
    sdf: Tensor, front: Cameras, chosen: Bool[Tensor, "height width"]
) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """Where along each ray the field is lowest, as z-depth, and how low."""
    origins, directions = (r[0].to(sdf.device)[chosen] for r in rays(front))
    pose = front.world_from_camera[0]
    reach = -float(pose[:3, 3] @ pose[:3, 2])
    count = int(2 / (_STEP_VOXELS * spacing(sdf.shape[0])))
    depths = torch.linspace(reach - 1.0, reach + 1.0, count, device=sdf.device)
    places, values = [], []
    size = max(1, _CHUNK // count)
    for o, d in zip(torch.split(origins, size), torch.split(directions, size), strict=True):
        value, best = sample(sdf, o[:, None] + d[:, None] * depths[:, None]).min(dim=1)
        places.append(depths[best])
        values.append(value)
    return torch.cat(places), torch.cat(values)
