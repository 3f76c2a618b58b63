"""Cameras as tensors: orbits, projection and rays.

The world is the front camera's OpenGL frame: +x right, +y up, +z towards the viewer; the scene is the cube [-1, 1]^3. Camera
axes are OpenCV: +x right, +y down, +z forward. Depth is z-depth. The centre of pixel (0, 0) is (0.5, 0.5).
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

VIEW_NAMES = ("front", "front_right", "right", "back", "left", "front_left")
# Views that change places when an object is mirrored about x: left and right, front left and front right.
MIRRORED_VIEWS = (0, 5, 4, 3, 2, 1)
# The published order of Wonder3D's six views, as azimuths of the camera about +y, from +z towards +x.
VIEW_AZIMUTHS_DEG = (0.0, 45.0, 90.0, 180.0, 270.0, 315.0)
# Cameras stand clear of the cube's corners (sqrt 3), so that every depth is positive.
ORBIT_DISTANCE = 2.0


# Forward axes of two cameras that face each other.
_OPPOSITE_COSINE = -0.999


@dataclass(frozen=True, kw_only=True)
class Cameras:
    """Cameras of one image size and one kind of projection.

    Attributes:
        world_from_camera: Rigid transforms, scene units.
        focal_px: Pixels per scene unit (orthographic) or focal length in pixels (perspective).
        centre_px: Principal point, pixels.
    """

    projection: Literal["orthographic", "perspective"]
    world_from_camera: Float[Tensor, "view 4 4"]
    focal_px: Float[Tensor, "view"]
    centre_px: Float[Tensor, "view 2"]
    width_px: int
    height_px: int

    def __len__(self) -> int:
        """Number of cameras."""
        return self.world_from_camera.shape[0]

    def __getitem__(self, views: Sequence[int] | slice) -> "Cameras":
        """The cameras of some views, in the given order."""
        return Cameras(
            projection=self.projection,
            world_from_camera=self.world_from_camera[views],
            focal_px=self.focal_px[views],
            centre_px=self.centre_px[views],
            width_px=self.width_px,
            height_px=self.height_px,
        )

    def to(self, device: torch.device | str) -> "Cameras":
        """The same cameras with their tensors on another device."""
        return Cameras(
            projection=self.projection,
            world_from_camera=self.world_from_camera.to(device),
            focal_px=self.focal_px.to(device),
            centre_px=self.centre_px.to(device),
            width_px=self.width_px,
            height_px=self.height_px,
        )

    def resized(self, width_px: int, height_px: int) -> "Cameras":
        """The same cameras looking through images of another size and the same shape."""
        scale = width_px / self.width_px
        if abs(scale - height_px / self.height_px) > 1e-9:
            raise ValueError(f"cannot resize {self.width_px}x{self.height_px} cameras to {width_px}x{height_px}: shapes differ")
        return Cameras(
            projection=self.projection,
            world_from_camera=self.world_from_camera,
            focal_px=self.focal_px * scale,
            centre_px=self.centre_px * scale,
            width_px=width_px,
            height_px=height_px,
        )


def orbit(
    azimuths_deg: Sequence[float] = VIEW_AZIMUTHS_DEG,
    *,
    size_px: int,
    elevation_deg: float = 0.0,
    half_extent: float = 1.0,
) -> Cameras:
    """Orthographic cameras about +y that look at the origin.

    Args:
        azimuths_deg: From +z (the front, 0) towards +x (the right side, 90).
        size_px: Width and height of the square images.
        elevation_deg: Of the cameras above the horizon.
        half_extent: Half the side of the frame, scene units.
    """
    poses = torch.stack([_look_at_origin(math.radians(a), math.radians(elevation_deg)) for a in azimuths_deg])
    count = len(azimuths_deg)
    return Cameras(
        projection="orthographic",
        world_from_camera=poses,
        focal_px=torch.full((count,), size_px / (2 * half_extent)),
        centre_px=torch.full((count, 2), size_px / 2),
        width_px=size_px,
        height_px=size_px,
    )


def _look_at_origin(azimuth_rad: float, elevation_rad: float) -> Float[Tensor, "4 4"]:
    sin_a, cos_a = math.sin(azimuth_rad), math.cos(azimuth_rad)
    sin_e, cos_e = math.sin(elevation_rad), math.cos(elevation_rad)
    right = (cos_a, 0.0, -sin_a)
    down = (sin_a * sin_e, -cos_e, cos_a * sin_e)
    forward = (-sin_a * cos_e, -sin_e, -cos_a * cos_e)
    centre = tuple(-ORBIT_DISTANCE * f for f in forward)
    pose = torch.eye(4)
    pose[:3] = torch.tensor([right, down, forward, centre]).T
    return pose


def project(
    cameras: Cameras, points: Float[Tensor, "view *points 3"]
) -> tuple[Float[Tensor, "view *points 2"], Float[Tensor, "view *points"]]:
    """Pixel positions and z-depths of world points, each view its own points."""
    flat = points.reshape(len(cameras), -1, 3)
    rotation, centre = cameras.world_from_camera[:, :3, :3], cameras.world_from_camera[:, None, :3, 3]
    local = (flat - centre) @ rotation
    depth = local[..., 2]
    plane = local[..., :2] if cameras.projection == "orthographic" else local[..., :2] / depth[..., None]
    pixels = plane * cameras.focal_px[:, None, None] + cameras.centre_px[:, None]
    shape = points.shape[:-1]
    return pixels.reshape(*shape, 2), depth.reshape(shape)


def unproject(
    cameras: Cameras, pixels: Float[Tensor, "view *points 2"], depth: Float[Tensor, "view *points"]
) -> Float[Tensor, "view *points 3"]:
    """World points at the given z-depths behind the given pixel positions: the inverse of `project`."""
    flat = pixels.reshape(len(cameras), -1, 2)
    z = depth.reshape(len(cameras), -1, 1)
    plane = (flat - cameras.centre_px[:, None]) / cameras.focal_px[:, None, None]
    local = torch.cat([plane if cameras.projection == "orthographic" else plane * z, z], dim=-1)
    rotation, centre = cameras.world_from_camera[:, :3, :3], cameras.world_from_camera[:, None, :3, 3]
    return (local @ rotation.mT + centre).reshape(*depth.shape, 3)


def facing(cameras: Cameras) -> Bool[Tensor, "view view"]:
    """Which views look at each other from opposite sides. Parallel rays give them one outline; no point is seen by both."""
    forward = cameras.world_from_camera[:, :3, 2]
    return forward @ forward.T < _OPPOSITE_COSINE


def pixel_centres(width_px: int, height_px: int) -> Float[Tensor, "height width 2"]:
    """Positions of the pixel centres, pixels, x first."""
    x = torch.arange(width_px) + 0.5
    y = torch.arange(height_px) + 0.5
    return torch.stack(torch.meshgrid(x, y, indexing="xy"), dim=-1)


def rays(cameras: Cameras) -> tuple[Float[Tensor, "view height width 3"], Float[Tensor, "view height width 3"]]:
    """Origins at z-depth 0 and directions whose z in the camera is 1, so that `origin + depth * direction` is the point."""
    pixels = pixel_centres(cameras.width_px, cameras.height_px).expand(len(cameras), -1, -1, -1).to(cameras.focal_px.device)
    zeros = torch.zeros(pixels.shape[:-1], device=pixels.device)
    origins = unproject(cameras, pixels, zeros)
    return origins, unproject(cameras, pixels, zeros + 1) - origins


def depths_through(camera: Cameras, count: int) -> Float[Tensor, "depth"]:
    """Evenly spaced z-depths of a camera's rays in the scene, from one unit before its origin to one behind it."""
    pose = camera.world_from_camera[0]
    reach = -float(pose[:3, 3] @ pose[:3, 2])
    return torch.linspace(reach - 1.0, reach + 1.0, count, device=pose.device)


def upright_from_front(elevation_deg: float) -> Float[np.ndarray, "3 3"]:
    """Turns what the front camera sees from so far above, in its own frame, until it stands upright and faces it level."""
    angle = math.radians(elevation_deg)
    sine, cosine = math.sin(angle), math.cos(angle)
    return np.array([[1.0, 0.0, 0.0], [0.0, cosine, sine], [0.0, -sine, cosine]])
