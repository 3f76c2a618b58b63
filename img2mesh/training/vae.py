"""Training of the compact autoencoder, on crops around the objects, both domains alike."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional, init

from img2mesh.data.dataset import RenderedObjects, Sample
from img2mesh.metrics.image import psnr
from img2mesh.models import placement
from img2mesh.models.autoencoder import from_config, pack_colour, pack_normals
from img2mesh.models.checkpoint import save_weights
from img2mesh.training.loop import LoopConfig, train
from img2mesh.training.sheets import write_sheet

CONFIG: dict[str, Any] = {
    "in_channels": 4,
    "out_channels": 4,
    # Four channels at this size keep outlines and lightness and lose hue and the direction of normals; eight keep them.
    "latent_channels": 8,
    "block_out_channels": [32, 64, 96, 128],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 128,
    "use_post_quant_conv": False,
}


@dataclass(frozen=True, kw_only=True)
class VaeConfig:
    """What one step looks at.

    Attributes:
        batch: Crops a step.
        crop_px: Side of the crops; a crop holds the object far more often than a whole view does.
        whole_share: Share of steps that look at whole views, as many pixels: group norms see other statistics there.
        colour_share: Share of pictures, the rest being normal maps.
        kl_weight: Of the mean Kullback-Leibler divergence per latent element, which keeps the latents smooth.
    """

    loop: LoopConfig
    batch: int = 8
    crop_px: int = 64
    whole_share: float = 0.25
    colour_share: float = 0.6
    kl_weight: float = 1e-4


def train_vae(views: Path, out: Path, config: VaeConfig, *, device: str) -> Path:
    """Train and export the autoencoder.

    Args:
        views: Folder of `img2mesh data render`.
        out: Checkpoint, log, sample sheets and `vae.safetensors` go here.
        device: "cpu" or "cuda".

    Returns:
        The weights file.
    """
    data, held_back = RenderedObjects(views, "train"), RenderedObjects(views, "val")
    torch.manual_seed(config.loop.seed)
    network = from_config(CONFIG).to(device, memory_format=torch.channels_last)
    # A posterior that starts narrow lets the first steps learn what to say instead of how loudly to say it.
    init.constant_(network.quant_conv.bias[CONFIG["latent_channels"] :], -6.0)

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        whole = bool(torch.rand((), generator=generator) < config.whole_share)
        side = CONFIG["sample_size"] if whole else config.crop_px
        count = max(1, config.batch * config.crop_px**2 // side**2)
        batch = torch.stack([_crop(data.load(item), side, config, generator) for item in data.draw(count, generator)])
        return vae_loss(network, batch.to(device, memory_format=torch.channels_last), config.kl_weight)

    weights = out / "vae.safetensors"
    train(network, loss, config, out, lambda: _export(network, held_back, weights, device))
    return weights


def vae_loss(network: AutoencoderKL, batch: Float[Tensor, "batch 4 height width"], kl_weight: float) -> dict[str, Tensor]:
    """Mean absolute error of the reconstruction, of its pixels and of means over cells, plus the weighted divergence."""
    with placement.training(batch.device.type):
        posterior = network.encode(batch).latent_dist
        output = network.decode(posterior.sample()).sample
    error = output.float() - batch
    # Outlines dominate the error of single pixels; the means of cells say hue and direction.
    scales = [functional.avg_pool2d(error, cell).abs().mean() for cell in (1, 4, 8)]
    divergence = posterior.kl().float().mean() / posterior.mean[0].numel()
    loss = scales[0] + scales[1] + 2 * scales[2] + kl_weight * divergence
    return {"loss": loss, "l1": scales[0].detach(), "l1_of_cells": scales[2].detach(), "kl": divergence.detach()}


def _crop(sample: Sample, side_px: int, config: VaeConfig, generator: torch.Generator) -> Float[Tensor, "4 side side"]:
    """A random crop, centred on a random covered pixel, of a random view and domain, mirrored half the time."""

    def random() -> float:
        return torch.rand((), generator=generator).item()

    view = int(random() * len(sample.alpha))
    packed = _packed(sample, view, colour=random() < config.colour_share, generator=generator)
    covered = (packed[3] > 0).nonzero()
    centre = covered[int(random() * len(covered))] if len(covered) else torch.tensor(packed.shape[1:]) // 2
    top, left = ((centre - side_px // 2).clamp(torch.tensor(0), torch.tensor(packed.shape[1:]) - side_px)).tolist()
    crop = packed[:, top : top + side_px, left : left + side_px]
    return crop.flip(-1) if random() < 0.5 else crop


def _packed(sample: Sample, view: int, *, colour: bool, generator: torch.Generator) -> Float[Tensor, "4 height width"]:
    """Network input of one view, pictures with their colours exchanged and dimmed at random."""
    alpha = sample.alpha[view : view + 1]
    if not colour:
        return pack_normals(sample.normals[view : view + 1], alpha)[0]
    order = torch.randperm(3, generator=generator) if torch.rand((), generator=generator) < 0.5 else torch.arange(3)
    gain = 0.7 + 0.4 * torch.rand((), generator=generator)
    object_rgb = (sample.rgb[view] - (1 - alpha)) * gain
    rgb = (object_rgb[order] + (1 - alpha)).clamp(0, 1)
    return pack_colour(rgb[None], alpha)[0]


@torch.no_grad()
def _export(network: AutoencoderKL, held_back: RenderedObjects, path: Path, device: str) -> None:
    """Write the weights with their latents' scale, and a sheet with the score on held-back objects."""
    samples = [held_back.load(item) for item in range(0, len(held_back), max(1, len(held_back) // 12))]
    colour = torch.cat([pack_colour(s.rgb[:1], s.alpha[:1]) for s in samples])
    normals = torch.cat([pack_normals(s.normals[1:2], s.alpha[1:2]) for s in samples])
    batch = torch.cat([colour, normals]).to(device)
    network.eval()
    latents = network.encode(batch).latent_dist.mode()
    output = network.decode(latents).sample.clamp(-1, 1)
    network.train()
    network.register_to_config(scaling_factor=1 / latents.std().item())
    save_weights(path, network.state_dict(), {**CONFIG, "scaling_factor": network.config.scaling_factor})
    images, truth = output.cpu() / 2 + 0.5, batch.cpu() / 2 + 0.5
    half = len(samples)
    score = {
        "psnr_colour_db": psnr(images[:half, :3], truth[:half, :3]),
        "psnr_normal_db": psnr(images[half:, :3], truth[half:, :3]),
    }
    print("val " + json.dumps(score), flush=True)
    rows = [part[domain, :3] for domain in (slice(half), slice(half, None)) for part in (truth, images)]
    write_sheet(path.with_suffix(".png"), [list(row) for row in rows])
