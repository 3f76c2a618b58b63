"""A fitted surface: a signed distance on a grid."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import Cameras, rays
from img2mesh.neus.grid import resampled, sample, spacing
from img2mesh.neus.rendering import sample_weights
from img2mesh.neus.sampling import Samples, march

_DEPTH_STEP_VOXELS = 0.5
# No object in a frame with a margin fills this share of the cube.
_EXPLODED = 0.9
# Gradients for the confidence are differences over this share of a voxel on either side.
_PROBE_VOXELS = 0.5


@dataclass(frozen=True, kw_only=True)
class Surface:
    """The zero level set of a signed distance.

    Attributes:
        sdf: On the corners of a grid over [-1, 1]^3, scene units, positive outside.
        inv_std: Sharpness with which it was fitted, 1 / scene units.
    """

    sdf: Float[Tensor, "z y x"]
    inv_std: float

    @property
    def resolution(self) -> int:
        """Corners along each side of its own grid."""
        return self.sdf.shape[0]

    def sdf_grid(self, resolution: int) -> Float[Tensor, "z y x"]:
        """Signed distances on the corners of a grid over [-1, 1]^3, scene units, positive outside."""
        return resampled(self.sdf, resolution)

    def checked(self) -> "Surface":
        """The surface itself.

        Raises:
            NumericalError: It has values that are not finite, is empty, or has exploded until it fills the cube.
        """
        if not bool(torch.isfinite(self.sdf).all()):
            raise NumericalError("expected a finite signed distance, found values that are not: try another seed")
        inside = float((self.sdf < 0).float().mean())
        if not 0 < inside < _EXPLODED:
            raise NumericalError(f"expected a surface within [-1, 1]^3, found {inside:.0%} of it inside: try another seed")
        return self

    def render_depth(self, cameras: Cameras) -> tuple[Float[Tensor, "view height width"], Float[Tensor, "view height width"]]:
        """Depth maps of the surface.

        Returns:
            z-depth of the first crossing, scene units, 0 where the ray meets nothing; and a confidence in [0, 1]: the ray's
            opacity times the cosine at which it meets the surface.
        """
        maps = [self._render_view(cameras[[view]]) for view in range(len(cameras))]
        return torch.stack([m[0] for m in maps]), torch.stack([m[1] for m in maps])

    def _render_view(self, camera: Cameras) -> tuple[Tensor, Tensor]:
        origins, directions = (r.reshape(-1, 3).to(self.sdf.device) for r in rays(camera))
        length = directions.norm(dim=-1)
        unit = directions / length[:, None]
        samples = march(straddling(self.sdf), origins, unit, step_voxels=_DEPTH_STEP_VOXELS)
        ray, distance, opacity = self._first_crossings(samples, len(origins))
        depth, confidence = torch.zeros_like(length), torch.zeros_like(length)
        depth[ray] = distance / length[ray]
        cosine = -(self._normals(origins[ray] + distance[:, None] * unit[ray]) * unit[ray]).sum(-1)
        confidence[ray] = opacity * cosine.clamp(0, 1)
        shape = (camera.height_px, camera.width_px)
        return depth.reshape(shape), confidence.reshape(shape)

    def _first_crossings(self, samples: Samples, rays_count: int) -> tuple[Tensor, Tensor, Tensor]:
        """Rays that enter the surface, how far along, and with what opacity."""
        values = sample(self.sdf, samples.points)
        weights = sample_weights(values, samples.place, self.inv_std)
        opacity = torch.zeros(rays_count, device=values.device).index_add_(0, samples.ray, weights)
        enters = (values[:-1] > 0) & (values[1:] <= 0) & (samples.place[1:] > 0)
        at = enters.nonzero()[:, 0]
        if len(at):
            at = at[torch.cat([at.new_ones(1), samples.ray[at[1:]] - samples.ray[at[:-1]]]) != 0]
        share = values[at] / (values[at] - values[at + 1])
        distance = torch.lerp(samples.distance[at], samples.distance[at + 1], share)
        ray = samples.ray[at]
        return ray, distance, opacity[ray].clamp(0, 1)

    def _normals(self, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
        offsets = torch.eye(3, device=points.device) * _PROBE_VOXELS * spacing(self.resolution)
        ahead, behind = (sample(self.sdf, points[:, None] + sign * offsets) for sign in (1, -1))
        return torch.nn.functional.normalize(ahead - behind, dim=-1)


def straddling(sdf: Float[Tensor, "z y x"]) -> Bool[Tensor, "z y x"]:
    """Cells, by their lowest corner, that the surface passes through, and all cells around those."""
    pad = (0, 1, 0, 1, 0, 1)
    pooled = [torch.nn.functional.max_pool3d(sign * sdf[None], 2, stride=1)[0] >= 0 for sign in (1, -1)]
    crossed = torch.nn.functional.pad((pooled[0] & pooled[1]).float(), pad)
    return torch.nn.functional.max_pool3d(crossed[None], 3, stride=1, padding=1)[0] > 0
