"""Between a person's scene and the cube [-1, 1]^3 in which surfaces are fitted."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, pixel_centres, project, rays

# Of the cube's half side, the radius of the sphere that holds the object.
FILLED = 0.9


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """`world = centre + scale * cube`."""

    centre: Float[Tensor, "3"]
    scale: float

    def to_cube(self, cameras: Cameras) -> Cameras:
        """The cameras as they stand about the cube."""
        pose = cameras.world_from_camera.clone()
        pose[:, :3, 3] = (pose[:, :3, 3] - self.centre) / self.scale
        orthographic = cameras.projection == "orthographic"
        return replace(cameras, world_from_camera=pose, focal_px=cameras.focal_px * (self.scale if orthographic else 1.0))

    def to_world(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        """Points of the cube in the person's scene."""
        return self.centre + self.scale * points


def around_object(cameras: Cameras, alpha: Float[Tensor, "view height width"]) -> Similarity:
    """The similarity that puts the object, as its masks show it, into a sphere inside the cube.

    The centre is the point nearest to the rays through the middles of the masks; the sphere's radius is that of the mask that
    reaches furthest from it, at the centre's depth.
    """
    origins, directions = rays(cameras)
    foreground = alpha >= 0.5
    middle = torch.stack([mask.nonzero().float().mean(0).long() for mask in foreground])
    view = torch.arange(len(cameras))
    start = origins[view, middle[:, 0], middle[:, 1]].double()
    towards = torch.nn.functional.normalize(directions[view, middle[:, 0], middle[:, 1]].double(), dim=-1)
    across = torch.eye(3, dtype=torch.float64) - towards[:, :, None] * towards[:, None, :]
    centre = torch.linalg.solve(across.sum(0), (across @ start[..., None]).sum(0))[:, 0].float()
    pixels, depth = project(cameras, centre.expand(len(cameras), 1, 3))
    places = pixel_centres(cameras.width_px, cameras.height_px)
    reach_px = torch.stack([(places[mask] - at).norm(dim=-1).max() for mask, at in zip(foreground, pixels, strict=True)])
    unit = (depth[:, 0] if cameras.projection == "perspective" else torch.ones(len(cameras))) / cameras.focal_px
    return Similarity(centre=centre, scale=float((reach_px * unit).max()) / FILLED)
