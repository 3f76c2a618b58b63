"""Scores of pictures against pictures."""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F

# Constants of Wang et al. 2004, for values in [0, 1].
_C1, _C2 = 0.01**2, 0.03**2


def psnr(image: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"]) -> float:
    """Peak signal-to-noise ratio of values in [0, 1], dB."""
    return -10 * math.log10(max((image - truth).square().mean().item(), 1e-12))


def masked_psnr(
    image: Float[Tensor, "channel height width"],
    truth: Float[Tensor, "channel height width"],
    mask: Bool[Tensor, "height width"],
) -> float:
    """Peak signal-to-noise ratio inside the mask, dB; 0 where the mask is empty, since nothing is alike there."""
    return psnr(image[:, mask], truth[:, mask]) if bool(mask.any()) else 0.0


def silhouette_iou(alpha: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"]) -> float:
    """Intersection over union of the silhouettes, each where coverage exceeds one half; 1 when both are empty."""
    ours, theirs = alpha > 0.5, truth > 0.5
    union = int((ours | theirs).sum())
    return int((ours & theirs).sum()) / union if union else 1.0


def ssim(image: Float[Tensor, "channel height width"], truth: Float[Tensor, "channel height width"]) -> float:
    """Structural similarity of values in [0, 1], mean over the windows that lie wholly inside: 1 for equal pictures.

    Gaussian window of 11 pixels, sigma 1.5.

    Source: Wang, Bovik, Sheikh, Simoncelli 2004, equation 13.
    """
    offsets = torch.arange(11, dtype=torch.float64) - 5
    bell = torch.exp(-offsets.square() / (2 * 1.5**2))
    window = (bell[:, None] * bell[None] / bell.sum() ** 2)[None, None]
    x, y = image.double()[:, None], truth.double()[:, None]
    mean_x, mean_y = F.conv2d(x, window), F.conv2d(y, window)
    variance_x = F.conv2d(x * x, window) - mean_x.square()
    variance_y = F.conv2d(y * y, window) - mean_y.square()
    covariance = F.conv2d(x * y, window) - mean_x * mean_y
    likeness = (2 * mean_x * mean_y + _C1) * (2 * covariance + _C2)
    return float((likeness / ((mean_x.square() + mean_y.square() + _C1) * (variance_x + variance_y + _C2))).mean())
