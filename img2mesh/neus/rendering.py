"""Volume rendering of a signed distance, in log space, over rays of unequal numbers of samples laid end to end."""

from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


class _ScanWithinRays(torch.autograd.Function):
    """Running sums that start anew with each ray, in log2(samples) shifted additions: no order of addition is left open."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, place: Tensor) -> Tensor:
        """The running sums."""
        ctx.place = place
        total = values.clone()
        for step in _powers_of_two(place):
            total[step:] += total[:-step] * (place[step:] >= step)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        """Running sums of the gradients, from the rays' ends."""
        total = gradients[0].clone()
        for step in reversed(_powers_of_two(ctx.place)):
            total[:-step] += total[step:] * (ctx.place[step:] >= step)
        return total, None


def _powers_of_two(place: Tensor) -> list[int]:
    longest = int(place.max()) if place.numel() else 0
    return [1 << bit for bit in range(longest.bit_length())]


def scan_within_rays(values: Float[Tensor, "samples"], place: Int[Tensor, "samples"]) -> Float[Tensor, "samples"]:
    """Running sums over the samples of each ray, the sample itself included.

    Args:
        place: Number of each sample in its ray, from 0; rays follow one another.
    """
    total: Tensor = _ScanWithinRays.apply(values, place)  # type: ignore[no-untyped-call]
    return total


def sample_weights(sdf: Float[Tensor, "samples"], place: Int[Tensor, "samples"], inv_std: float) -> Float[Tensor, "samples"]:
    """What each sample contributes to its ray: half of the sections on either side of it.

    The weights of a ray add up to its opacity, which is one minus the product of its sections' transparencies. With S the
    logistic function, NeuS' opacity of a section (S(f0) - S(f1)) / S(f0) is 1 - S(f1) / S(f0), so its complement is a
    difference of log-sigmoids: finite everywhere, also where the plain quotient becomes 0 / 0 deep inside the surface.

    Args:
        sdf: Signed distance of the samples, scene units; ordered along each ray, rays one after another.
        place: Number of each sample in its ray, from 0.
        inv_std: Sharpness of the logistic density, 1 / scene units, positive.

    Source: Wang et al., NeuS, 2021, equation 13.
    """
    inside = torch.cat([place[1:] > 0, place.new_zeros(1, dtype=torch.bool)])
    # Each logarithm is taken once; a ray's last sample begins no section.
    logs = F.logsigmoid(sdf * inv_std)
    clear = (logs.roll(-1) - logs).clamp(max=0) * inside
    passed = torch.exp(scan_within_rays(clear, place) - clear)
    section = passed * -torch.expm1(clear)
    return 0.5 * (section + section.roll(1))
