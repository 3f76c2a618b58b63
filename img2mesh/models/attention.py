"""Depth-truncated epipolar attention: each pixel asks the points around its own surface what the other views see there."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras
from img2mesh.geometry.epipolar import epipolar_grid, sample_offsets
from img2mesh.geometry.plucker import plucker_rays


def zero(layer: Any) -> None:
    """Make a layer with weight and bias contribute nothing, until training says otherwise."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class DepthTruncatedEpipolarAttention(nn.Module):
    """Attention of each pixel over a few points near its depth, seen in all other views.

    The features of a point in the N - 1 other views are concatenated and pass a two-layer MLP. Because interpolation and the
    first layer are both linear, that layer is applied to the feature maps before they are sampled, one slice of it a source,
    and the results are summed: the concatenated gather of the paper's formulation never exists.

    The output projection starts at zero, so a new layer changes nothing. Points outside a source's image contribute zero
    features; pixels without depth keep theirs.

    Args:
        channels: Of the feature maps.
        views: Number of views.
        samples: Points along each ray.
        radius: Half the length of the sampled interval, scene units.
        heads: Attention heads.

    Source: Tang et al., Pixel-aligned multi-view generation with depth guided decoder, 2024, section 3.2, equations 1 and 2.
    """

    def __init__(self, channels: int, *, views: int, samples: int, radius: float, heads: int, groups: int) -> None:
        super().__init__()
        self.views, self.samples, self.radius, self.heads = views, samples, radius, heads
        self.hidden = channels // 2
        self.norm = nn.GroupNorm(groups, channels, eps=1e-6)
        # Six more inputs carry the Pluecker rays.
        self.to_q = nn.Conv2d(channels + 6, channels, 1, bias=False)
        self.mlp_in = nn.Conv2d(channels + 6, self.hidden * (views - 1), 1, bias=False)
        # Where on the ray a point lies: the features alone do not say.
        self.place = nn.Parameter(torch.zeros(samples, self.hidden))
        self.mlp_out = nn.Linear(self.hidden, channels)
        self.to_kv = nn.Linear(channels, 2 * channels, bias=False)
        self.to_out = nn.Conv2d(channels, channels, 1)
        zero(self.to_out)

    def forward(
        self,
        features: Float[Tensor, "view channel height width"],
        depth: Float[Tensor, "view height width"],
        cameras: Cameras,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "view channel height width"]:
        """Features of all views after the exchange.

        Args:
            depth: z-depth at the features' resolution, scene units, 0 in the background.
            cameras: At the features' resolution.
            generator: Draws the points within their strata in training.
        """
        told = torch.cat([self.norm(features), plucker_rays(cameras).to(features)], dim=1)
        queries = self.to_q(told)
        # [view, source, hidden, h, w]: the slice of the first layer that each view needs as the i-th source of another.
        sliced = self.mlp_in(told).unflatten(1, (self.views - 1, self.hidden))
        offsets = sample_offsets(self.samples, self.radius, generator).to(depth)
        outputs = [self._attend(view, queries[view], sliced, depth[view], cameras, offsets) for view in range(self.views)]
        covered = (depth > 0)[:, None].to(features)
        return features + self.to_out(torch.stack(outputs)) * covered

    def _attend(
        self,
        view: int,
        query: Float[Tensor, "channel height width"],
        sliced: Float[Tensor, "view source hidden height width"],
        depth: Float[Tensor, "height width"],
        cameras: Cameras,
        offsets: Float[Tensor, "sample"],
    ) -> Float[Tensor, "channel height width"]:
        height, width = depth.shape
        grid = epipolar_grid(cameras, view, depth, offsets).flatten(1, 2)
        maps = torch.stack([sliced[(view + step) % self.views, step - 1] for step in range(1, self.views)])
        # Positions need single precision at least, whatever the features have.
        precise = torch.promote_types(maps.dtype, torch.float32)
        seen = functional.grid_sample(maps.to(precise), grid.to(precise), align_corners=False).sum(dim=0).to(maps)
        seen = seen.reshape(self.hidden, self.samples, height * width).permute(2, 1, 0)
        points = self.mlp_out(functional.silu(seen + self.place.to(seen)))
        keys, values = self.to_kv(points).unflatten(2, (2, self.heads, -1)).unbind(dim=2)
        asked = query.flatten(1).T.unflatten(1, (1, self.heads, -1))
        scores = (asked * keys).sum(dim=-1) / keys.shape[-1] ** 0.5
        mixed = (scores.softmax(dim=1)[..., None] * values).sum(dim=1)
        return mixed.flatten(1).T.reshape(-1, height, width)
