"""Training of the depth-guided decoder: encoded latents and depth with its errors in, aligned pictures out."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor

from img2mesh.data.dataset import RenderedObjects, Sample
from img2mesh.errors import InputError
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.depth import add_structured_noise
from img2mesh.metrics.image import psnr
from img2mesh.metrics.lpips import require_lpips
from img2mesh.models.autoencoder import from_config, pack_colour
from img2mesh.models.checkpoint import read_weights, save_weights
from img2mesh.models.decoder import NEW_LAYERS, DepthGuidedDecoder, inherit
from img2mesh.training.augmentation import augment
from img2mesh.training.coarse import CoarselyFitted
from img2mesh.training.loop import LoopConfig, Precision, train
from img2mesh.training.sheets import write_sheet

# Of the autoencoder's configuration, what the decoder inherits.
_SHARED = ("out_channels", "latent_channels", "block_out_channels", "layers_per_block", "norm_num_groups")


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """The new layers, and what one step looks at.

    Attributes:
        samples: Points per ray in each up-block, coarsest first.
        radius: Half the sampled interval, scene units (half the frame is 1). The paper does not name its unit.
        hidden: How far behind a view's surface a point is hidden from it, scene units; None: not at all, as in the paper.
        epipolar: "full" spreads the points over the whole ray, whatever the depth.
        front: Whether the front picture is given.
        alone: Whether each view is decoded by itself.
        fits: How many fronts to train on with the depth of coarse fits; 0: on all of them with the true depth.
        depth_noise: Half widths of the structured noise, scene units, see `geometry.depth.add_structured_noise`.
        latent_noise: Standard deviation of noise on the latents, in units of theirs: generated latents are never exact.
        absolute: Weight of the mean absolute error, beside the squared error's 1.
        perceptual: Weight of LPIPS on pictures in [0, 1]. The paper names neither weight nor backbone.
        keep_plain: Whether the autoencoder's own layers stay as they are.
        checkpointing: See `DepthGuidedDecoder`.
        size_px: Side that the views must have, pixels; None: any.
    """

    loop: LoopConfig
    samples: tuple[int, ...] = (7, 7, 7, 2)
    radius: float = 0.1
    hidden: float | None = None
    head_dim: int = 32
    epipolar: Literal["truncated", "full"] = "truncated"
    front: bool = True
    alone: bool = False
    fits: int = 0
    depth_noise: tuple[float, ...] = (0.1, 0.1 / 3, 0.1 / 9, 0.1 / 9)
    latent_noise: float = 0.05
    absolute: float = 1.0
    perceptual: float = 0.0
    keep_plain: bool = False
    checkpointing: bool = False
    size_px: int | None = None


def full_size(
    *, steps: int = 3000, seed: int = 0, draws: int = 8, precision: Precision = "bf16", report_every: int = 25
) -> DecoderConfig:
    """The paper's training of the published decoder: AdamW at 1e-5, squared error and LPIPS, one object a GPU on eight GPUs.

    Fewer GPUs take several objects each in a step, one after the other, which gives the same numbers.

    Source: Tang et al., Pixel-aligned multi-view generation with depth guided decoder, 2024, section 3.4.
    """
    rates = LoopConfig(steps=steps, lr=1e-5, matrix_lr=None, cooldown=0.0, seed=seed)
    loop = replace(rates, draws=draws, precision=precision, report_every=report_every)
    return DecoderConfig(loop=loop, head_dim=64, absolute=0.0, perceptual=1.0, checkpointing=True, size_px=256)


# The rows of the paper's table 2: what each leaves out of the decoder, or changes in it. Along the whole ray there are as many
# points as pixels, at the resolutions where that fits.
VARIANTS: dict[str, dict[str, Any]] = {
    "ours": {},
    "plain": {"samples": (0, 0, 0, 0), "front": False, "alone": True},
    "structured-noise": {"fits": 0, "depth_noise": DecoderConfig.depth_noise},
    "no-depth-noise": {"fits": 0},
    "independent-noise": {"fits": 0, "depth_noise": (0.0, 0.0, 0.0, 0.1)},
    "full-epipolar": {"epipolar": "full", "samples": (16, 32, 0, 0), "radius": 1.0},
    "no-epipolar": {"samples": (0, 0, 0, 0)},
    "nothing-hidden": {"hidden": None},
}
# The same fronts whatever a training's seed, so that all find the fits of the first.
_FITTED_SEED = 10


def compact(
    *, steps: int = 400, seed: int = 0, variant: str = "ours", fits: int = 112, precision: Precision = "bf16"
) -> DecoderConfig:
    """The training of the compact decoder, or of a variant of it: new layers move fast, those of the autoencoder hardly.

    Steps look at one object, so the second half of the way, and more, is cool-down: before it the noise hides what was learned.
    """
    rates = LoopConfig(steps=steps, seed=seed, lr=2e-3, matrix_lr=0.04, inherited_rate=0.05, warmup_steps=20, cooldown=0.75)
    ours: dict[str, Any] = {"hidden": 0.1, "fits": fits, "depth_noise": ()}
    return DecoderConfig(loop=replace(rates, precision=precision), keep_plain=True, **ours | VARIANTS[variant])


class _Task:
    """The frozen autoencoder and the decoder of one training run."""

    def __init__(self, vae_weights: Path, config: DecoderConfig, device: str, base: Path | None) -> None:
        state, vae_config = read_weights(vae_weights)
        self.vae: AutoencoderKL = from_config(vae_config).to(device).requires_grad_(requires_grad=False)
        self.vae.load_state_dict(state)
        own = {key: getattr(config, key) for key in ("samples", "radius", "hidden", "head_dim", "epipolar", "front", "alone")}
        shared, source = (vae_config, state) if base is None else read_weights(base)[::-1]
        self.decoder_config = {key: shared[key] for key in _SHARED} | {"num_views": 6, **own}
        torch.manual_seed(config.loop.seed)
        self.network = DepthGuidedDecoder(self.decoder_config).to(device)
        self.network.checkpointing = config.checkpointing
        if base is None:
            inherit(self.network, source)
        else:
            _go_on(self.network, source, base)
        for name, parameter in self.network.named_parameters():
            parameter.requires_grad = not (config.keep_plain and _plain(name))
        self.lpips = require_lpips().to(device) if config.perceptual else None
        self.config, self.device, self.scale = config, device, vae_config["scaling_factor"]

    def loss(self, sample: Sample, generator: torch.Generator) -> dict[str, Tensor]:
        """Squared error of the packed pictures, plus the other terms by weight."""
        packed, latents = self.encode(sample)
        latents = latents + torch.randn(latents.shape, generator=generator).to(latents) * self.config.latent_noise / self.scale
        # Unused, but torch 2.13 crashes on the CPU in a group normalisation whose input has no gradient and whose weights have.
        latents.requires_grad = self.config.keep_plain
        depth = add_structured_noise(sample.depth, self.config.depth_noise, generator).to(self.device)
        cameras = orbit(size_px=depth.shape[-1]).to(self.device)
        with self._autocast():
            output = self.network(latents, packed[0], depth, cameras, generator)
        error = output.float() - packed
        terms = {"mse": error.square().mean()}
        loss = terms["mse"]
        if self.config.absolute:
            terms["l1"] = error.abs().mean()
            loss = loss + self.config.absolute * terms["l1"]
        if self.lpips is not None:
            terms["lpips"] = self.lpips.distance(output.float()[:, :3] / 2 + 0.5, packed[:, :3] / 2 + 0.5).mean()
            loss = loss + self.config.perceptual * terms["lpips"]
        return {"loss": loss} | {name: term.detach() for name, term in terms.items()}

    @torch.no_grad()
    def encode(self, sample: Sample) -> tuple[Float[Tensor, "view channel height width"], Float[Tensor, "view latent h w"]]:
        """Packed pictures, as many channels as the autoencoder has, and their latents, unscaled."""
        packed = pack_colour(sample.rgb, sample.alpha)[:, : self.vae.config.in_channels].to(self.device)
        # The encoder's activations leave the range of fp16.
        with self._autocast(enabled=self.config.loop.precision == "bf16"):
            return packed, self.vae.encode(packed).latent_dist.mode().float()

    def _autocast(self, *, enabled: bool = True) -> torch.autocast:
        precision = self.config.loop.precision
        dtype = torch.float16 if precision == "fp16" else torch.bfloat16
        return torch.autocast(self.device, dtype, enabled=enabled and precision != "fp32")


def _go_on(network: DepthGuidedDecoder, source: dict[str, Tensor], path: Path) -> None:
    """Start as another decoder; the published one lacks the new layers."""
    missing, unexpected = network.load_state_dict(source, strict=False)
    wrong = [name for name in missing if not name.startswith(NEW_LAYERS)] + unexpected
    if wrong:
        raise InputError(f"{path} holds no decoder of this size: {', '.join(wrong[:3])}")


def train_decoder(
    views: Path, vae_weights: Path, out: Path, config: DecoderConfig, *, device: str, base: Path | None = None
) -> Path:
    """Train and export the depth-guided decoder.

    Args:
        views: Folder of `img2mesh data render`.
        vae_weights: The finished autoencoder.
        out: Checkpoint, log, sample sheets and `decoder.safetensors` go here.
        device: "cpu" or "cuda".
        base: Weights of the decoder to start as; None: the autoencoder's own decoder.

    Returns:
        The weights file.

    Raises:
        InputError: The views have another size, or weights do not fit or are missing.
    """
    data, held_back = _data(views, vae_weights, config.fits)
    found = data.load_front(0).shape[-1]
    if config.size_px not in (None, found):
        raise InputError(
            f"expected views of {config.size_px} px in {views}, found {found}: render with --size-px {config.size_px}"
        )
    task = _Task(vae_weights, config, device, base)
    weights = out / "decoder.safetensors"

    def loss(generator: torch.Generator) -> dict[str, Tensor]:
        [item] = data.draw(1, generator)
        return task.loss(augment(data.load(item), generator), generator)

    train(task.network, loss, config, out, lambda: _export(task, held_back, weights), _of_the_temporal_decoder)
    return weights


def _data(views: Path, vae_weights: Path, fits: int) -> tuple[RenderedObjects, RenderedObjects]:
    """What to train on, and the held-back objects whose scores are shown."""
    data, held_back = RenderedObjects(views, "train"), RenderedObjects(views, "val")
    if not fits:
        return data, held_back
    drawn = dict.fromkeys(data.draw(3 * fits, torch.Generator().manual_seed(_FITTED_SEED)))
    fitted = CoarselyFitted(views, "train", vae_weights, list(drawn)[:fits])
    return fitted, CoarselyFitted(views, "val", vae_weights, _shown(held_back))


def _shown(held_back: RenderedObjects) -> Sequence[int]:
    return range(0, len(held_back), max(1, len(held_back) // 12))


def _of_the_temporal_decoder(name: str) -> bool:
    return not name.startswith(NEW_LAYERS)


def _plain(name: str) -> bool:
    """Whether a layer is the autoencoder's; those that mix the views come new."""
    return _of_the_temporal_decoder(name) and "temporal" not in name and "time" not in name


@torch.no_grad()
def _export(task: _Task, held_back: RenderedObjects, path: Path) -> None:
    """Write the weights, and a sheet and the scores of the five unseen views against the plain decoder."""
    save_weights(path, task.network.state_dict(), task.decoder_config)
    rows, scores = [], []
    for item in _shown(held_back):
        sample = held_back.load(item)
        packed, latents = task.encode(sample)
        noise = torch.Generator().manual_seed(item)
        depth = add_structured_noise(sample.depth, task.config.depth_noise, noise).to(task.device)
        guided = _picture(task.network(latents, packed[0], depth, orbit(size_px=depth.shape[-1]).to(task.device)))
        plain = _picture(task.vae.decode(latents).sample)
        scores.append([[psnr(made[view], sample.rgb[view]) for view in range(len(plain))] for made in (guided, plain)])
        rows += [list(sample.rgb), list(plain), list(guided)]
    guided, plain = torch.tensor(scores).mean(dim=0)
    gains = [round(gain, 2) for gain in (guided - plain).tolist()]
    told = {
        "guided_db": round(float(guided[1:].mean()), 3),
        "plain_db": round(float(plain[1:].mean()), 3),
        "gain_by_view": gains,
    }
    print("val " + json.dumps(told), flush=True)
    write_sheet(path.with_suffix(".png"), rows[:12])


def _picture(packed: Float[Tensor, "view channel height width"]) -> Float[Tensor, "view 3 height width"]:
    return (packed[:, :3].cpu() / 2 + 0.5).clamp(0, 1)
