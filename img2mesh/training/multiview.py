"""Training of the compact multi-view generator on views encoded by the finished autoencoder."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, DDIMScheduler
from jaxtyping import Float
from torch import Tensor

from img2mesh.data.dataset import RenderedObjects, Sample
from img2mesh.diffusion.conditioning import class_labels
from img2mesh.diffusion.sampling import sample as sample_latents
from img2mesh.errors import InputError
from img2mesh.geometry.cameras import VIEW_AZIMUTHS_DEG
from img2mesh.metrics.image import psnr, silhouette_iou
from img2mesh.metrics.lpips import Lpips, require_lpips
from img2mesh.models import placement
from img2mesh.models.autoencoder import from_config, pack_colour, pack_normals, unpack_colour
from img2mesh.models.checkpoint import read_weights, save_weights
from img2mesh.models.multiview import MultiviewGenerator
from img2mesh.models.regressor import GUESS_CHANNELS
from img2mesh.training.augmentation import augment
from img2mesh.training.loop import LoopConfig, train
from img2mesh.training.sheets import write_sheet

CONFIG: dict[str, Any] = {
    "unet": {
        "sample_size": 16,
        "in_channels": 16,
        "out_channels": 8,
        "block_out_channels": [64, 128, 256],
        # Attention over 6 x 256 tokens would cost more than everything else together on a CPU; 6 x 64 is cheap.
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"],
        "layers_per_block": 1,
        "cross_attention_dim": 128,
        "attention_head_dim": 8,
        "norm_num_groups": 16,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 10,
        "num_views": 6,
    },
    "image_encoder": {
        "hidden_size": 128,
        "intermediate_size": 512,
        "num_hidden_layers": 4,
        "num_attention_heads": 4,
        "image_size": 128,
        "patch_size": 16,
        "projection_dim": 128,
    },
    # The last step is pure noise, so that sampling starts where training did and its first guess is a regression.
    "scheduler": {
        "beta_start": 0.00085,
        "beta_end": 0.012,
        "beta_schedule": "scaled_linear",
        "prediction_type": "v_prediction",
        "rescale_betas_zero_snr": True,
        "timestep_spacing": "trailing",
        "clip_sample": False,
    },
}

# Of the five unseen views, so many are decoded for each object in a step that compares pictures: decoding is what costs there.
_VIEWS_LOOKED_AT = 3


@dataclass(frozen=True, kw_only=True)
class MultiviewConfig:
    """What one step looks at.

    Attributes:
        batch: Objects a step, twelve latents each.
        drop: Share of objects whose condition is dropped, for guidance.
        pure_noise: Share of objects at the noisiest step; the network is first of all a regressor from the picture.
        perceptual: Weight of the difference of some decoded unseen views, beside that of the latents: LPIPS and mean absolute
            errors. It wants all objects at the noisiest step.
    """

    loop: LoopConfig
    batch: int = 6
    drop: float = 0.08
    pure_noise: float = 0.7
    perceptual: float = 0.0

    @classmethod
    def of(cls, *, steps: int, seed: int) -> "MultiviewConfig":
        """From nothing."""
        return cls(loop=LoopConfig(steps=steps, seed=seed))

    @classmethod
    def onwards(cls, *, steps: int, seed: int) -> "MultiviewConfig":
        """From a trained generator on, with another first guess: the shipped one's last leg."""
        rates = LoopConfig(steps=steps, seed=seed, matrix_lr=0.008, warmup_steps=30, cooldown=0.85, report_every=10)
        return cls(loop=rates, pure_noise=0.9)

    @classmethod
    def sharpening(cls, *, steps: int, seed: int) -> "MultiviewConfig":
        """A last leg in which sharpness counts; the shipped weights have not had it."""
        rates = LoopConfig(steps=steps, seed=seed, lr=2e-4, matrix_lr=0.004, warmup_steps=20, cooldown=0.6, ema_decay=0.99)
        return cls(loop=rates, batch=2, drop=0.0, pure_noise=1.0, perceptual=1.0)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """A batch ready for the UNet; `latents` rows run domain, object, view. Pictures are over white, with coverage."""

    latents: Float[Tensor, "domain object view latent height width"]
    conditions: Float[Tensor, "object view channel height width"]
    pictures: Float[Tensor, "object view 4 height_px width_px"]


class _Task:
    """The frozen autoencoder, the network and the noise schedule of one training run."""

    def __init__(
        self, vae_weights: Path, config: MultiviewConfig, device: str, regressor: Path | None = None, base: Path | None = None
    ) -> None:
        state, vae_config = read_weights(vae_weights)
        self.vae: AutoencoderKL = from_config(vae_config).to(device, memory_format=torch.channels_last).requires_grad_(False)
        self.vae.load_state_dict(state)
        self.vae_config, self.config, self.device = vae_config, config, device
        torch.manual_seed(config.loop.seed)
        start, start_config = read_weights(base) if base else ({}, CONFIG)
        guess, guess_config = read_weights(regressor) if regressor else ({}, None)
        self.network_config = _with_guess(guess_config) if guess_config else start_config
        self.network = MultiviewGenerator(self.network_config).to(device)
        if base:
            _go_on(self.network, start, base)
        if self.network.guess is not None and guess:
            self.network.guess.load_state_dict(guess)
        self.lpips = require_lpips().to(device) if config.perceptual else None
        self.scheduler = DDIMScheduler(**CONFIG["scheduler"])
        self.labels = class_labels(VIEW_AZIMUTHS_DEG).to(device)

    @torch.no_grad()
    def encode(self, samples: list[Sample]) -> _Encoded:
        """Scaled latents of both domains."""
        alpha = torch.cat([s.alpha for s in samples])
        normals = pack_normals(torch.cat([s.normals for s in samples]), alpha)
        colours = pack_colour(torch.cat([s.rgb for s in samples]), alpha)
        images = torch.cat([normals, colours]).to(self.device, memory_format=torch.channels_last)
        with placement.training(self.device):
            latents = torch.cat([self.vae.encode(part).latent_dist.mode() for part in images.split(24)])
        latents = latents.float() * self.vae_config["scaling_factor"]
        pictures = torch.stack([torch.cat([s.rgb, s.alpha[:, None]], dim=1) for s in samples]).to(self.device)
        return _Encoded(
            latents=latents.reshape(2, len(samples), -1, *latents.shape[1:]),
            conditions=self.network.conditions(pictures[:, 0], self._front_latents),
            pictures=pictures,
        )

    def _front_latents(self, fronts: Float[Tensor, "object 4 height width"]) -> Float[Tensor, "object latent h w"]:
        with placement.training(self.device):
            latents: Tensor = self.vae.encode(pack_colour(fronts[:, :3], fronts[:, 3])).latent_dist.mode()
        scaled: Tensor = latents.float() * self.vae_config["scaling_factor"]
        return scaled

    def loss(self, batch: _Encoded, generator: torch.Generator) -> dict[str, Tensor]:
        """Mean squared error of the v-prediction, also by domain.

        Source: Salimans and Ho, Progressive distillation, 2022; Lin et al., Common diffusion noise schedules are flawed, 2024.
        """
        _, objects, views = batch.latents.shape[:3]
        timesteps = self._timesteps(objects, generator)
        keep = (torch.rand(objects, generator=generator) >= self.config.drop).to(self.device)
        clean = batch.latents.flatten(0, 2)
        noise = torch.randn(clean.shape, generator=generator).to(self.device)
        per_row = timesteps[None, :, None].expand(2, -1, views).reshape(-1)
        noisy = self.scheduler.add_noise(clean, noise, per_row)
        target = self.scheduler.get_velocity(clean, noise, per_row)
        told = batch.conditions * keep[:, None, None, None, None]
        condition = told[None].expand(2, -1, views, -1, -1, -1).flatten(0, 2)
        labels = self.labels.reshape(2, 1, views, -1).expand(-1, objects, -1, -1).flatten(0, 2)
        with placement.training(self.device):
            tokens = self.network.embed(batch.pictures[:, 0, :3]) * keep[:, None, None]
            tokens = tokens[None, :, None].expand(2, -1, views, -1, -1).flatten(0, 2)
            prediction = self.network(torch.cat([noisy, condition], dim=1), per_row, tokens, labels)
        normal, colour = (prediction.float() - target).square().mean(dim=(1, 2, 3)).chunk(2)
        terms = {"normal": normal.mean(), "colour": colour.mean()}
        loss = (terms["normal"] + terms["colour"]) / 2
        if self.lpips is not None:
            # At the noisiest step nothing is left of the latents, and their negative is what is predicted.
            clean = -prediction.float().reshape(batch.latents.shape)[1]
            terms["seen"] = self._seen_difference(self.lpips, clean, batch.pictures, generator)
            loss = loss + self.config.perceptual * terms["seen"]
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}

    def _seen_difference(
        self,
        lpips: Lpips,
        latents: Float[Tensor, "object view latent h w"],
        pictures: Float[Tensor, "object view 4 height width"],
        generator: torch.Generator,
    ) -> Float[Tensor, ""]:
        """How differently colour latents look when they are decoded, over some unseen views of each object."""
        objects, views = latents.shape[:2]
        unseen = 1 + torch.stack([torch.randperm(views - 1, generator=generator)[:_VIEWS_LOOKED_AT] for _ in range(objects)])
        rows, chosen = torch.arange(objects)[:, None], unseen.to(latents.device)
        truth = pictures[rows, chosen].flatten(0, 1)
        with placement.training(self.device):
            decoded = self.vae.decode(latents[rows, chosen].flatten(0, 1) / self.vae_config["scaling_factor"]).sample
        rgb, alpha = unpack_colour(decoded.float())
        absolute = (rgb - truth[:, :3]).abs().mean() + (alpha - truth[:, 3]).abs().mean() / 2
        return lpips.distance(rgb, truth[:, :3]).mean() + absolute

    def _timesteps(self, objects: int, generator: torch.Generator) -> Tensor:
        """One step an object: the noisiest for some, the others uniform."""
        last = self.scheduler.config.num_train_timesteps - 1
        uniform = torch.randint(0, last + 1, (objects,), generator=generator)
        pure = torch.rand(objects, generator=generator) < self.config.pure_noise
        return torch.where(pure, last, uniform).to(self.device)


def _with_guess(guess: dict[str, Any]) -> dict[str, Any]:
    """The configuration of a generator with a first guess: it is told four pixels of that in each place of a latent."""
    unet = CONFIG["unet"]
    cell = (guess["size_px"] // unet["sample_size"]) ** 2
    return {**CONFIG, "unet": {**unet, "in_channels": unet["in_channels"] + GUESS_CHANNELS * cell}, "guess": guess}


def _go_on(network: MultiviewGenerator, state: dict[str, Tensor], base: Path) -> None:
    """Start as another generator, to which what it was not told means nothing yet."""
    entry = "unet.conv_in.weight"
    widened = torch.zeros_like(network.state_dict()[entry])
    widened[:, : state[entry].shape[1]] = state[entry]
    missing, unexpected = network.load_state_dict({**state, entry: widened}, strict=False)
    wrong = [name for name in missing if not name.startswith("guess.")] + unexpected
    if wrong:
        raise InputError(f"{base} holds no generator of this size: {', '.join(wrong[:3])}")


def train_multiview(
    views: Path,
    vae_weights: Path,
    out: Path,
    config: MultiviewConfig,
    *,
    device: str,
    regressor: Path | None = None,
    base: Path | None = None,
) -> Path:
    """Train and export the multi-view generator.

    Args:
        views: Folder of `img2mesh data render`.
        vae_weights: The finished autoencoder.
        out: Checkpoint, log, sample sheets and `multiview.safetensors` go here.
        device: "cpu" or "cuda".
        regressor: The finished first guess of the views, which becomes part of the generator; None: that of `base`, if any.
        base: Weights of the generator to start as; it may have been trained without a first guess.

    Returns:
        The weights file.

    Raises:
        InputError: Weights do not fit.
    """
    data, held_back = RenderedObjects(views, "train"), RenderedObjects(views, "val")
    task = _Task(vae_weights, config, device, regressor, base)
    weights = out / "multiview.safetensors"

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        samples = [augment(data.load(item), generator) for item in data.draw(config.batch, generator)]
        return task.loss(task.encode(samples), generator)

    train(task.network, loss, config, out, lambda: _export(task, held_back, weights))
    return weights


@torch.no_grad()
def _export(task: _Task, held_back: RenderedObjects, path: Path) -> None:
    """Write the weights, and a sheet and the scores of the five unseen views of held-back objects, with one step."""
    save_weights(path, task.network.state_dict(), task.network_config)
    rows: list[list[Tensor]] = []
    scores: dict[str, list[tuple[float, ...]]] = {"copy": [], "1 step": []}
    task.network.eval()
    for item in range(0, len(held_back), max(1, len(held_back) // 24)):
        truth = held_back.load(item)
        batch = task.encode([truth])
        rows.append(list(truth.rgb))
        scores["copy"].append(_score(task, truth.rgb[:1].expand(6, -1, -1, -1), truth.alpha[:1].expand(6, -1, -1), truth))
        images = _generate(task, batch, 1)
        rgb, alpha = unpack_colour(images[6:])
        scores["1 step"].append(_score(task, rgb, alpha, truth))
        rows += [list(rgb), list((images[:6, :3] + 1) / 2)]
    task.network.train()
    means = {name: [round(v, 4) for v in torch.tensor(rows).mean(dim=0).tolist()] for name, rows in scores.items()}
    print("val, psnr_db, iou and, where it is trained with it, lpips: " + json.dumps(means), flush=True)
    write_sheet(path.with_suffix(".png"), rows[:24])


def _generate(task: _Task, batch: _Encoded, steps: int) -> Float[Tensor, "row channel height width"]:
    """Packed images of both domains of the batch's first object."""
    latents = sample_latents(
        task.network,
        task.network.scheduler(),
        condition=batch.conditions[0],
        channels=batch.latents.shape[3],
        embedding=task.network.embed(batch.pictures[:1, 0, :3])[0],
        labels=task.labels,
        steps=steps,
        guidance_scale=1.0,
        seed=0,
    )
    images: Tensor = task.vae.decode(latents / task.vae_config["scaling_factor"]).sample
    return images.cpu()


def _score(
    task: _Task, rgb: Float[Tensor, "view 3 height width"], alpha: Float[Tensor, "view height width"], truth: Sample
) -> tuple[float, ...]:
    """PSNR over white, silhouette IoU and LPIPS of the views that are not the front."""
    scores = psnr(rgb[1:], truth.rgb[1:]), silhouette_iou(alpha[1:], truth.alpha[1:])
    if task.lpips is None:
        return scores
    return *scores, float(task.lpips(rgb[1:].to(task.device), truth.rgb[1:].to(task.device)).mean())
