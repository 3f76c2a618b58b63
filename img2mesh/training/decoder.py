"""Training of the depth-guided decoder: encoded latents and noised true depth in, aligned pictures out."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from img2mesh.data.dataset import RenderedObjects, Sample
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.depth import add_structured_noise
from img2mesh.metrics.image import psnr
from img2mesh.models.autoencoder import from_config, pack_colour, unpack_colour
from img2mesh.models.checkpoint import read_weights, save_weights
from img2mesh.models.decoder import DepthGuidedDecoder, inherit
from img2mesh.training.augmentation import augment
from img2mesh.training.loop import LoopConfig, train
from img2mesh.training.sheets import write_sheet

# Of the autoencoder's configuration, what the decoder inherits.
_SHARED = ("out_channels", "latent_channels", "block_out_channels", "layers_per_block", "norm_num_groups")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The new layers, and what one step looks at.

    Attributes:
        samples: Points per ray in each up-block, coarsest first.
        radius: Half the sampled interval, scene units (half the frame is 1). The paper does not name its unit.
        epipolar: "full" spreads the points over the whole ray, whatever the depth.
        front: Whether the front picture is given.
        alone: Whether each view is decoded by itself.
        depth_noise: Half widths of the structured noise, scene units, see `geometry.depth.add_structured_noise`.
        latent_noise: Standard deviation of noise on the latents, in units of theirs: generated latents are never exact.
    """

    loop: LoopConfig
    samples: tuple[int, ...] = (7, 7, 7, 2)
    radius: float = 0.1
    head_dim: int = 32
    epipolar: Literal["truncated", "full"] = "truncated"
    front: bool = True
    alone: bool = False
    depth_noise: tuple[float, ...] = (0.1, 0.1 / 3, 0.1 / 9, 0.1 / 9)
    latent_noise: float = 0.05


# The rows of the paper's table 2: what each leaves out of the decoder, or changes in it. Along the whole ray there are as many
# points as pixels, at the resolutions where that fits.
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "plain": {"samples": (0, 0, 0, 0), "front": False, "alone": True},
    "no-depth-noise": {"depth_noise": ()},
    "independent-noise": {"depth_noise": (0.0, 0.0, 0.0, 0.1)},
    "full-epipolar": {"epipolar": "full", "samples": (16, 32, 0, 0), "radius": 1.0},
    "no-epipolar": {"samples": (0, 0, 0, 0)},
}


class _Task:
    """The frozen autoencoder and the decoder of one training run."""

    def __init__(self, vae_weights: Path, config: DecoderConfig, device: str) -> None:
        state, vae_config = read_weights(vae_weights)
        self.vae: AutoencoderKL = from_config(vae_config).to(device).requires_grad_(requires_grad=False)
        self.vae.load_state_dict(state)
        self.decoder_config = {key: vae_config[key] for key in _SHARED} | {
            "num_views": 6,
            "samples": config.samples,
            "radius": config.radius,
            "head_dim": config.head_dim,
            "epipolar": config.epipolar,
            "front": config.front,
            "alone": config.alone,
        }
        torch.manual_seed(config.loop.seed)
        self.network = DepthGuidedDecoder(self.decoder_config).to(device)
        inherit(self.network, state)
        self.config, self.device, self.scale = config, device, vae_config["scaling_factor"]

    def loss(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared plus absolute error of the packed pictures."""
        packed, latents = self.encode(sample)
        latents = latents + torch.randn(latents.shape, generator=generator).to(latents) * self.config.latent_noise / self.scale
        depth = add_structured_noise(sample.depth, self.config.depth_noise, generator).to(self.device)
        cameras = orbit(size_px=depth.shape[-1]).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            output = self.network(latents, packed[0], depth, cameras, generator)
        error = output.float() - packed
        squared, absolute = error.square().mean(), error.abs().mean()
        return {"loss": squared + absolute, "mse": squared.detach(), "l1": absolute.detach()}

    @torch.no_grad()
    def encode(self, sample: Sample) -> tuple[Float[Tensor, "view channel height width"], Float[Tensor, "view latent h w"]]:
        """Packed pictures and their latents, unscaled."""
        packed = pack_colour(sample.rgb, sample.alpha).to(self.device)
        with torch.autocast(self.device, torch.bfloat16):
            return packed, self.vae.encode(packed).latent_dist.mode().float()


def train_decoder(views: Path, vae_weights: Path, out: Path, config: DecoderConfig, *, device: str) -> Path:
    """Train and export the depth-guided decoder.

    Args:
        views: Folder of `img2mesh data render`.
        vae_weights: The finished autoencoder, whose decoder it starts as.
        out: Checkpoint, log, sample sheets and `decoder.safetensors` go here.
        device: "cpu" or "cuda".

    Returns:
        The weights file.
    """
    data, held_back = RenderedObjects(views, "train"), RenderedObjects(views, "val")
    task = _Task(vae_weights, config, device)
    weights = out / "decoder.safetensors"

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        [item] = data.draw(1, generator)
        return task.loss(augment(data.load(item), generator), generator)

    train(task.network, loss, config, out, lambda: _export(task, held_back, weights))
    return weights


@torch.no_grad()
def _export(task: _Task, held_back: RenderedObjects, path: Path) -> None:
    """Write the weights, and a sheet and the scores of the five unseen views against the plain decoder."""
    save_weights(path, task.network.state_dict(), task.decoder_config)
    rows, scores = [], []
    for item in range(0, len(held_back), max(1, len(held_back) // 8)):
        sample = held_back.load(item)
        packed, latents = task.encode(sample)
        noise = torch.Generator().manual_seed(item)
        depth = add_structured_noise(sample.depth, task.config.depth_noise, noise).to(task.device)
        guided, _ = unpack_colour(task.network(latents, packed[0], depth, orbit(size_px=depth.shape[-1]).to(task.device)).cpu())
        plain, _ = unpack_colour(task.vae.decode(latents).sample.cpu())
        scores.append((psnr(guided[1:], sample.rgb[1:]), psnr(plain[1:], sample.rgb[1:])))
        rows += [list(sample.rgb), list(plain), list(guided)]
    guided_db, plain_db = torch.tensor(scores).mean(dim=0).tolist()
    print("val " + json.dumps({"guided_db": round(guided_db, 3), "plain_db": round(plain_db, 3)}), flush=True)
    write_sheet(path.with_suffix(".png"), rows[:12])
