"""Depth-truncated epipolar attention: each pixel asks the points around its own surface what the other views see there."""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from img2mesh.geometry.cameras import Cameras
from img2mesh.geometry.epipolar import Sightings, sample_offsets
from img2mesh.geometry.plucker import plucker_rays
from img2mesh.models.exchange import Exchange, Layer


def zero(layer: Any) -> None:
    """Make a layer with weight and bias contribute nothing, until training says otherwise."""
    nn.init.zeros_(layer.weight)
    nn.init.zeros_(layer.bias)


class DepthTruncatedEpipolarAttention(nn.Module):
    """Attention of each pixel over a few points near its depth, seen in all other views.

    The features of a point in the N - 1 other views are concatenated and pass a two-layer MLP, which gives its key and its
    value. The same is computed here with less: see `exchange`. Neither the concatenated gather of the paper's formulation nor
    keys and values ever exist.

    The output projection starts at zero, so a new layer changes nothing. Points outside a source's image, or hidden from it,
    contribute zero features; pixels without depth keep theirs.

    Args:
        channels: Of the feature maps.
        views: Number of views.
        samples: Points along each ray.
        radius: Half the length of the sampled interval, scene units.
        hidden: How far behind a source's surface a point is hidden from it, scene units; None: nothing is.
        heads: Attention heads.
        groups: Of the normalisation before it.

    Source: Tang et al., Pixel-aligned multi-view generation with depth guided decoder, 2024, section 3.2, equations 1 and 2.
    """

    def __init__(
        self, channels: int, *, views: int, samples: int, radius: float, heads: int, groups: int, hidden: float | None = None
    ) -> None:
        super().__init__()
        self.views, self.samples, self.radius, self.heads, self.hidden_behind = views, samples, radius, heads, hidden
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
        if not torch.is_grad_enabled() and not any(weight.any() for weight in self.to_out.parameters()):
            return features
        offsets = sample_offsets(self.samples, self.radius, generator).to(depth)
        layer = Layer(
            sightings=Sightings(cameras=cameras, depth=depth, offsets=offsets, hidden=self.hidden_behind),
            rays=plucker_rays(cameras).to(features).flatten(2),
            groups=self.norm.num_groups,
            eps=self.norm.eps,
        )
        keys, values, bias = self._folded()
        weights = (self.to_q.weight.flatten(1), self.mlp_in.weight.flatten(1).unflatten(0, (self.views - 1, self.hidden)))
        mixing = (self.place, keys, values, self.to_out.weight.flatten(1), bias)
        return Exchange.apply(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            layer, features, self.norm.weight, self.norm.bias, *weights, *mixing
        )

    def _folded(self) -> tuple[Tensor, Tensor, Tensor]:
        """The MLP's second layer inside the projections to keys (scaled) and values, and what its bias adds to the output.

        To all points of a ray its bias adds the same in the keys, which the softmax does not see.
        """
        with torch.autocast(self.place.device.type, enabled=False):
            keys, values = self.to_kv.weight.unflatten(0, (2, self.heads, -1)).unbind()
            bias = self.to_out.bias + self.to_out.weight.flatten(1) @ (values.flatten(0, 1) @ self.mlp_out.bias)
            folded = keys @ self.mlp_out.weight / keys.shape[1] ** 0.5, values @ self.mlp_out.weight
        return *folded, bias
