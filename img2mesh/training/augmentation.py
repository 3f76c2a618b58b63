"""Variations of a training sample that keep it true."""

import torch

from img2mesh.data.dataset import Sample
from img2mesh.geometry.cameras import MIRRORED_VIEWS


def augment(sample: Sample, generator: torch.Generator) -> Sample:
    """Mirrored half the time; colours exchanged or dimmed, the same in all views, half the time."""
    mirror, recolour = (torch.rand(2, generator=generator) < 0.5).tolist()
    order, gain = torch.randperm(3, generator=generator), 0.75 + 0.35 * torch.rand((), generator=generator)
    if mirror:
        sample = mirrored(sample)
    if not recolour:
        return sample
    white = (1 - sample.alpha)[:, None]
    return Sample(
        rgb=((sample.rgb - white)[:, order] * gain + white).clamp(0, 1),
        alpha=sample.alpha,
        normals=sample.normals,
        depth=sample.depth,
    )


def mirrored(sample: Sample) -> Sample:
    """The views of the object reflected in x: pictures flipped, sides exchanged, the normals' x negated."""
    sign = torch.tensor([-1.0, 1.0, 1.0])[:, None, None]
    return Sample(
        rgb=sample.rgb[list(MIRRORED_VIEWS)].flip(-1),
        alpha=sample.alpha[list(MIRRORED_VIEWS)].flip(-1),
        normals=sample.normals[list(MIRRORED_VIEWS)].flip(-1) * sign,
        depth=sample.depth[list(MIRRORED_VIEWS)].flip(-1),
    )
