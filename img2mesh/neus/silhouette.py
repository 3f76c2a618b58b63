"""The promise to the person who gave the picture: what it shows is there."""

import torch
from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, rays
from img2mesh.neus.grid import cells_of, sample, spacing, trilinear

_STEP_VOXELS = 0.5
# How deep below the surface a ray must pass to count as covered, and how deep it is put when it does not.
_DEPTH_VOXELS = 0.25
_CHUNK_POINTS = 1 << 20


def cover_front(sdf: Float[Tensor, "z y x"], cameras: Cameras, alpha: Float[Tensor, "height width"]) -> Float[Tensor, "z y x"]:
    """The field, lowered wherever a foreground pixel of the front would be empty.

    Along each such ray the place nearest to being inside is brought inside, with the corners of its cell.

    Args:
        alpha: The front's coverage; view 0 of the cameras is the front.
    """
    at, value = _lowest_on_rays(sdf, cameras, alpha)
    margin = _DEPTH_VOXELS * spacing(sdf.shape[0])
    missing = value > -margin
    if not bool(missing.any()):
        return sdf
    corner, _ = trilinear(*cells_of(at[missing], sdf.shape[0]), sdf.shape[0])
    lower = sdf.reshape(-1)[corner] - (value[missing] + margin)[:, None]
    return sdf.reshape(-1).scatter_reduce(0, corner.reshape(-1), lower.reshape(-1), "amin").reshape(sdf.shape)


def _lowest_on_rays(sdf: Tensor, cameras: Cameras, alpha: Tensor) -> tuple[Tensor, Tensor]:
    chosen = alpha >= 0.5
    origins, directions = (r[0].to(sdf.device)[chosen] for r in rays(cameras[:1]))
    reach = float(cameras.world_from_camera[0, :3, 3].norm())
    count = int(2 / (_STEP_VOXELS * spacing(sdf.shape[0])))
    depths = torch.linspace(reach - 1.0, reach + 1.0, count, device=sdf.device)
    points, values = [], []
    size = max(1, _CHUNK_POINTS // count)
    for o, d in zip(torch.split(origins, size), torch.split(directions, size), strict=True):
        along = o[:, None] + d[:, None] * depths[:, None]
        value, best = sample(sdf, along).min(dim=1)
        points.append(along[torch.arange(len(along), device=sdf.device), best])
        values.append(value)
    return torch.cat(points), torch.cat(values)
