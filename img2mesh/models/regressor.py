"""A first guess of all six views from the front alone, small and blurred: what the generator starts from."""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from img2mesh.geometry.cameras import MIRRORED_VIEWS
from img2mesh.models.features import FEATURE_CHANNELS, PictureFeatures

# Channels of a view: colour over white, coverage, normal.
GUESS_CHANNELS = 7
_VIEWS = len(MIRRORED_VIEWS)
_HEADS = 8
# Side of the picture whose features are taken, in sides of the guess.
_SEEN = 4


class ViewRegressor(nn.Module):
    """A UNet over the shrunk front and its mirror image, with features of the whole picture at its two coarsest levels.

    Args:
        config: `size_px` of the guess; `channels` of each level, finest first; `dropout` of whole channels at the levels that
            see the features.

    Attributes:
        pictures: The network whose features it takes.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.size_px: int = config["size_px"]
        widths, drop = config["channels"], config["dropout"]
        drops = [0.0] * (len(widths) - len(FEATURE_CHANNELS)) + [drop] * len(FEATURE_CHANNELS)
        self.pictures = PictureFeatures()
        # The front, its mirror image, and where a pixel lies.
        self.enter = nn.Conv2d(10, widths[0], 3, padding=1)
        self.down = nn.ModuleList(_Residual(width, p) for width, p in zip(widths, drops, strict=True))
        self.shrink = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in pairwise(widths))
        told = zip(FEATURE_CHANNELS, widths[-len(FEATURE_CHANNELS) :], strict=True)
        self.features = nn.ModuleList(
            nn.Sequential(nn.GroupNorm(8, seen), nn.Dropout2d(1.5 * drop), nn.Conv2d(seen, width, 1)) for seen, width in told
        )
        tokens = (self.size_px >> (len(widths) - 1)) ** 2
        self.middle = nn.Sequential(_Attention(widths[-1], tokens), _Residual(widths[-1], drop), _Attention(widths[-1], tokens))
        self.up = nn.ModuleList(
            nn.Sequential(_Residual(width, p), _Residual(width, 0.0)) for width, p in zip(widths, drops, strict=True)
        )
        self.grow = nn.ModuleList(nn.Conv2d(b, a, 1) for a, b in pairwise(widths))
        self.leave = nn.Conv2d(widths[0], _VIEWS * GUESS_CHANNELS, 3, padding=1)
        self.raised = nn.Linear(widths[-1], 1)

    def forward(
        self, front: Float[Tensor, "batch 4 small small"], features: list[Tensor]
    ) -> tuple[Float[Tensor, "batch view 7 small small"], Float[Tensor, "batch"]]:
        """Logits of colour and coverage, and normals before their tanh; and from how far above the front is seen, radians.

        Args:
            front: sRGB over white and coverage, in [0, 1], `size_px` wide.
            features: Those of the whole picture.
        """
        line = torch.linspace(-1, 1, self.size_px, device=front.device, dtype=front.dtype)
        where = torch.stack(torch.meshgrid(line, line, indexing="ij")).expand(len(front), -1, -1, -1)
        hidden = self.enter(torch.cat([front * 2 - 1, front.flip(-1) * 2 - 1, where], dim=1))
        kept = []
        first_told = len(self.down) - len(self.features)
        for level, block in enumerate(self.down):
            if level:
                hidden = self.shrink[level - 1](hidden)
            if level >= first_told:
                hidden = hidden + self.features[level - first_told](features[level - first_told])
            hidden = block(hidden)
            kept.append(hidden)
        hidden = self.middle(hidden)
        elevation = self.raised(hidden.mean(dim=(2, 3)))[:, 0]
        for level in reversed(range(len(self.up))):
            if level < len(self.grow):
                hidden = functional.interpolate(self.grow[level](hidden), scale_factor=2.0)
            hidden = self.up[level](hidden + kept[level])
        return self.leave(hidden).unflatten(1, (_VIEWS, GUESS_CHANNELS)), elevation

    def views(self, front: Float[Tensor, "batch 4 height width"]) -> Float[Tensor, "batch view 7 small small"]:
        """Colour over white and coverage in [0, 1], world normals: the mean of what the front and its mirror image say."""
        straight, mirrored = shown(self._of_both(front)[0]).chunk(2)
        return (straight + reflected(mirrored)) / 2

    def elevation(self, front: Float[Tensor, "batch 4 height width"]) -> Float[Tensor, "batch"]:
        """From how far above the object the picture is taken, radians: the mean of the same two."""
        straight, mirrored = self._of_both(front)[1].chunk(2)
        return (straight + mirrored) / 2

    @torch.no_grad()
    def _of_both(self, front: Tensor) -> tuple[Tensor, Tensor]:
        """What is made of the fronts, and then of their mirror images."""
        both = torch.cat([front, front.flip(-1)])
        raw, elevation = self(functional.adaptive_avg_pool2d(both, self.size_px), self.pictures(self.seen(both[:, :3])))
        return raw, elevation

    def seen(self, front: Float[Tensor, "batch channel height width"]) -> Float[Tensor, "batch channel seen seen"]:
        """Pictures as large as their features are taken of them."""
        return functional.interpolate(front, size=_SEEN * self.size_px, mode="bilinear", antialias=True)


def shown(raw: Float[Tensor, "batch view 7 small small"]) -> Float[Tensor, "batch view 7 small small"]:
    """Colour, coverage and normals of the network's raw output."""
    return torch.cat([torch.sigmoid(raw[:, :, :4]), torch.tanh(raw[:, :, 4:])], dim=2)


def reflected(views: Float[Tensor, "batch view 7 small small"]) -> Float[Tensor, "batch view 7 small small"]:
    """The views of the object reflected in x: pictures flipped, sides exchanged, the normals' x negated."""
    sign = views.new_tensor([1.0, 1, 1, 1, -1, 1, 1])[:, None, None]
    return views[:, list(MIRRORED_VIEWS)].flip(-1) * sign


class _Residual(nn.Module):
    def __init__(self, channels: int, drop: float) -> None:
        super().__init__()
        self.norm_in, self.conv_in = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.norm_out, self.conv_out = nn.GroupNorm(8, channels), nn.Conv2d(channels, channels, 3, padding=1)
        self.drop = nn.Dropout2d(drop)
        nn.init.zeros_(self.conv_out.weight)

    def forward(self, features: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Features with what two convolutions add."""
        inner = self.conv_in(functional.silu(self.norm_in(features)))
        return features + self.conv_out(self.drop(functional.silu(self.norm_out(inner))))


class _Attention(nn.Module):
    def __init__(self, channels: int, tokens: int) -> None:
        super().__init__()
        self.norm, self.place = nn.LayerNorm(channels), nn.Parameter(torch.randn(tokens, channels) * 0.02)
        self.to_qkv, self.to_out = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)

    def forward(self, features: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Features with what each place learns from all others."""
        tokens = self.norm(features.flatten(2).mT + self.place)
        q, k, v = self.to_qkv(tokens).unflatten(-1, (3, _HEADS, -1)).permute(2, 0, 3, 1, 4)
        mixed = functional.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        return features + self.to_out(mixed).mT.reshape(features.shape)
