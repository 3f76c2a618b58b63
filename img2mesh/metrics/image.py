"""Scores of pictures against pictures."""

import math

from jaxtyping import Float
from torch import Tensor


def psnr(image: Float[Tensor, "*shape"], truth: Float[Tensor, "*shape"]) -> float:
    """Peak signal-to-noise ratio of values in [0, 1], dB."""
    return -10 * math.log10(max((image - truth).square().mean().item(), 1e-12))
