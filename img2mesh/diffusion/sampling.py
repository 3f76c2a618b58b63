"""Sampling the twelve latents of one object: DDIM with classifier-free guidance."""

from typing import Protocol

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor


class Network(Protocol):
    """Predicts what the scheduler's `prediction_type` names, for [normal, colour] x object x view."""

    def __call__(
        self,
        sample: Float[Tensor, "batch channel height width"],
        timestep: Tensor,
        encoder_hidden_states: Float[Tensor, "batch 1 dim"],
        class_labels: Float[Tensor, "batch 10"],
    ) -> Float[Tensor, "batch latent height width"]:
        """The prediction."""
        ...


@torch.no_grad()
def sample(
    network: Network,
    scheduler: DDIMScheduler,
    *,
    condition: Float[Tensor, "view channel height width"],
    channels: int,
    embedding: Float[Tensor, "1 dim"],
    labels: Float[Tensor, "row 10"],
    steps: int,
    guidance_scale: float,
    seed: int,
    eta: float = 0.0,
    split_guidance: bool = False,
) -> Float[Tensor, "row latent height width"]:
    """Latents of all views, normals first, then colours, scaled as the network sees them.

    Args:
        condition: What the views are told, in either domain; a single one is told all of them.
        channels: Of a latent.
        embedding: Image embedding of the prepared picture, one token.
        labels: Camera and task rows, see `conditioning.class_labels`.
        steps: Sampling steps.
        guidance_scale: 1 switches guidance off and halves the work.
        seed: Of all noise, drawn on the CPU so that all devices start alike.
        eta: Share of fresh noise in each step, see `SamplingConfig`.
        split_guidance: Compute the two halves of guidance one after the other: less memory, the same numbers.

    Source: Song et al., DDIM, 2021; Ho and Salimans, Classifier-free diffusion guidance, 2022.
    """
    rows = labels.shape[0]
    generator = torch.Generator().manual_seed(seed)
    latents = torch.randn((rows, channels, *condition.shape[-2:]), generator=generator).to(condition.device)
    conditions, embeddings = condition.repeat(rows // len(condition), 1, 1, 1), embedding.expand(rows, -1, -1)
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        noisy = torch.cat([scheduler.scale_model_input(latents, timestep), conditions], dim=1)
        if guidance_scale == 1:
            prediction = network(noisy, timestep, embeddings, labels)
        else:
            prediction = _guided(
                network, noisy, timestep, embeddings, labels, guidance_scale, channels=channels, in_halves=split_guidance
            )
        latents = scheduler.step(prediction, timestep, latents, eta=eta, generator=generator).prev_sample
    return latents


def _guided(
    network: Network,
    noisy: Float[Tensor, "row channel height width"],
    timestep: Tensor,
    embeddings: Float[Tensor, "row 1 dim"],
    labels: Float[Tensor, "row 10"],
    scale: float,
    *,
    channels: int,
    in_halves: bool,
) -> Float[Tensor, "row latent height width"]:
    """Prediction moved away from the one that is told nothing of the picture.

    In one batch it is [normal_uncond, normal_cond, colour_uncond, colour_cond]: halves by domain, as the joint attention needs.
    In two it gives the same, since the objects of a batch do not influence one another.
    """
    blank, nothing = noisy.clone(), torch.zeros_like(embeddings)
    blank[:, channels:] = 0
    if in_halves:
        free = network(blank, timestep, nothing, labels)
        told = network(noisy, timestep, embeddings, labels)
    else:
        inputs = _interleave(blank, noisy), timestep, _interleave(nothing, embeddings), _interleave(labels, labels)
        normal_free, normal_told, colour_free, colour_told = network(*inputs).chunk(4)
        free, told = torch.cat([normal_free, colour_free]), torch.cat([normal_told, colour_told])
    return free + scale * (told - free)


def _interleave(free: Tensor, told: Tensor) -> Tensor:
    """[normal_free, normal_told, colour_free, colour_told] of two [normal, colour] batches."""
    return torch.cat([part for pair in zip(free.chunk(2), told.chunk(2), strict=True) for part in pair])
