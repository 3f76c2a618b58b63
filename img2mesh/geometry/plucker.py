"""Pluecker coordinates of camera rays."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras, rays


def plucker_rays(cameras: Cameras) -> Float[Tensor, "view 6 height width"]:
    """Unit direction and moment (origin x direction) of the ray through each pixel's centre, world frame.

    Source: Kant et al., SPAD, 2024.
    """
    with torch.autocast(cameras.world_from_camera.device.type, enabled=False):
        origins, directions = rays(cameras)
    directions = functional.normalize(directions, dim=-1)
    return torch.cat([directions, torch.linalg.cross(origins, directions)], dim=-1).movedim(-1, 1)
