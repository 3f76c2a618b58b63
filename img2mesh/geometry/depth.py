"""Depth maps: pooling that ignores the background, and the noise that stands for a coarse reconstruction's errors."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional


def pool_depth(depth: Float[Tensor, "view height width"], factor: int) -> Float[Tensor, "view small_height small_width"]:
    """Mean depth of the covered pixels of each cell; 0 where there are none.

    The paper leaves the pooling open; a plain mean would mix in the background's zeros.
    """
    covered = (depth > 0).float()
    total = functional.avg_pool2d(depth[:, None], factor)[:, 0]
    share = functional.avg_pool2d(covered[:, None], factor)[:, 0]
    return torch.where(share > 0, total / share.clamp(min=1e-6), torch.zeros_like(total))


def add_structured_noise(
    depth: Float[Tensor, "view height width"],
    scales: Sequence[float],
    generator: torch.Generator,
) -> Float[Tensor, "view height width"]:
    """Depth with uniform noise of several resolutions, so that coarse errors survive pooling; the background stays 0.

    Args:
        depth: z-depth, scene units; a side of at least 8 pixels.
        scales: Half widths of the noise in scene units; the first at an eighth of the resolution, each next at twice
            the resolution before, the last ones at full resolution. The text of the paper names three resolutions and four
            scales; this reading gives one to each up-block of the decoder.

    Source: Tang et al., Pixel-aligned multi-view generation with depth guided decoder, 2024, section 3.3.
    """
    views, height, width = depth.shape
    noisy = depth.clone()
    for level, scale in enumerate(scales):
        factor = max(1, 8 >> level)
        grid = (torch.rand((views, 1, height // factor, width // factor), generator=generator) * 2 - 1) * scale
        noise = functional.interpolate(grid, size=(height, width), mode="bilinear", align_corners=False)
        noisy += noise[:, 0].to(depth)
    return torch.where(depth > 0, noisy.clamp(min=1e-3), depth)
