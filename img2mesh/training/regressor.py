"""Training of the first guess of the views, on shrunk views that are read once."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from img2mesh.data.dataset import RenderedObjects
from img2mesh.errors import InputError
from img2mesh.metrics.image import psnr, silhouette_iou
from img2mesh.models import placement
from img2mesh.models.checkpoint import read_weights, save_weights
from img2mesh.models.features import folded
from img2mesh.models.regressor import ViewRegressor, reflected, shown
from img2mesh.training.loop import LoopConfig, train
from img2mesh.training.sheets import write_sheet

CONFIG: dict[str, Any] = {"size_px": 32, "channels": [24, 48, 96, 192], "dropout": 0.2}


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """What one step looks at.

    Attributes:
        batch: Fronts a step.
        colour: Weight of the squared error of colours, beside the coverage's cross-entropy.
        normal: Weight of the squared error of normals.
        elevation: Weight of the squared error of the front's elevation, radians.
        stretch: Objects are stretched upwards by up to e to this power, or shrunk.
    """

    loop: LoopConfig
    batch: int = 32
    colour: float = 4.0
    normal: float = 0.5
    elevation: float = 2.0
    stretch: float = 0.35

    @classmethod
    def of(cls, *, steps: int, seed: int) -> "RegressorConfig":
        """From the published features on, which move slowly."""
        return cls(loop=_loop(steps, seed, matrix_lr=0.02))

    @classmethod
    def onwards(cls, *, steps: int, seed: int) -> "RegressorConfig":
        """From a trained regressor on."""
        return cls(loop=_loop(steps, seed, matrix_lr=0.01))


def _loop(steps: int, seed: int, *, matrix_lr: float) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        seed=seed,
        matrix_lr=matrix_lr,
        weight_decay=0.05,
        warmup_steps=50,
        cooldown=0.5,
        ema_decay=0.998,
        inherited_rate=0.05,
    )


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """All fronts of a split, as large as the network looks at them, and their views, shrunk.

    Attributes:
        fronts: Colour over white and coverage, brought to [0, 255].
        views: Colour over white, coverage and normals, all brought to [0, 255].
    """

    fronts: UInt8[Tensor, "front 4 seen seen"]
    views: UInt8[Tensor, "front view 7 small small"]

    def batch(self, chosen: Tensor) -> tuple[Float[Tensor, "batch 1 4 seen seen"], Float[Tensor, "batch view 7 small small"]]:
        """Chosen fronts and their views, colour and coverage in [0, 1]."""
        fronts, views = self.fronts[chosen].float() / 255, self.views[chosen].float() / 255
        return fronts[:, None], torch.cat([views[:, :, :4], views[:, :, 4:] * 2 - 1], dim=2)


def _shrink(data: RenderedObjects, network: ViewRegressor) -> Shrunk:
    """Read every front once."""
    fronts: list[Tensor] = []
    views: list[Tensor] = []
    for item in range(len(data)):
        sample = data.load(item)
        whole = torch.cat([sample.rgb, sample.alpha[:, None], (sample.normals + 1) / 2], dim=1)
        fronts.append(_bytes(network.seen(whole[:1, :4])[0]))
        views.append(_bytes(functional.adaptive_avg_pool2d(whole, network.size_px)))
    return Shrunk(fronts=torch.stack(fronts), views=torch.stack(views))


def _bytes(values: Tensor) -> Tensor:
    return (values.clamp(0, 1) * 255).round().to(torch.uint8)


def _read(data: RenderedObjects, network: ViewRegressor, kept: Path) -> Shrunk:
    """What `_shrink` gives, kept in a file for the next start with as many fronts."""
    if kept.is_file() and len((shrunk := Shrunk(**load_file(kept))).views) == len(data):
        return shrunk
    partial = kept.with_suffix(".part")
    save_file(vars(_shrink(data, network)), partial)
    os.replace(partial, kept)
    return Shrunk(**load_file(kept))


class _Task:
    """The network and the data of one training run."""

    def __init__(
        self, data: RenderedObjects, features: Path | None, base: Path | None, out: Path, config: RegressorConfig, device: str
    ) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.device, self.weights = config, device, data.weights
        self.elevations = data.elevations_deg.deg2rad()
        self.network = ViewRegressor(CONFIG)
        if base:
            self.network.load_state_dict(_guess_of(base))
        elif features:
            # The published file is a pickle; nothing but tensors is read from it.
            self.network.pictures.load_state_dict(folded(torch.load(features, weights_only=True)))
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.shrunk = _read(data, self.network, out / "shrunk.safetensors")

    def loss(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of coverage, squared errors of colours over white, of normals and of the front's elevation."""
        chosen = torch.multinomial(self.weights, self.config.batch, replacement=True, generator=generator)
        front, views = self.shrunk.batch(chosen)
        change = _Change.drawn(views, self.config.stretch, generator)
        front, views = (change.of(pictures).to(self.device) for pictures in (front, views))
        front = front[:, 0].contiguous(memory_format=torch.channels_last)
        # Convolutions of each channel by itself are slower in bf16 than in single precision where they are differentiated.
        features = self.network.pictures(front[:, :3])
        with placement.training(self.device):
            raw, elevation = self.network(functional.adaptive_avg_pool2d(front, self.network.size_px), features)
        raised = change.raised(self.elevations[chosen]).to(self.device)
        raw, lean = raw.float(), (elevation.float() - raised).square().mean()
        coverage = functional.binary_cross_entropy_with_logits(raw[:, :, 3], views[:, :, 3])
        error = (shown(raw) - views).square()
        colour, normal = error[:, :, :3].mean(), error[:, :, 4:].mean()
        loss = coverage + self.config.colour * colour + self.config.normal * normal + self.config.elevation * lean
        terms = {"coverage": coverage, "colour": colour, "normal": normal, "elevation": lean}
        return {"loss": loss, **{name: term.detach() for name, term in terms.items()}}


def _guess_of(base: Path) -> dict[str, Tensor]:
    """Weights of a regressor, or of that within a generator.

    Raises:
        InputError: There is none of this size.
    """
    state, config = read_weights(base)
    if config.get("guess", config) != CONFIG:
        raise InputError(f"{base} holds no first guess of this size: give those of a regressor or of a generator with one")
    return {name.removeprefix("guess."): value for name, value in state.items() if "guess" not in config or "guess." in name}


@dataclass(frozen=True, kw_only=True)
class _Change:
    """What is done to the objects of a batch, to each in all pictures alike.

    Attributes:
        mirrored: Reflected in x.
        order: Of the colour channels.
        gain: Of all colours.
        taller: By which it is stretched upwards.
        scale: By which it is scaled, so that the front's longest side stays: a small front tells of a deep object.
    """

    mirrored: Bool[Tensor, "batch"]
    order: Int[Tensor, "batch 3"]
    gain: Float[Tensor, "batch"]
    taller: Float[Tensor, "batch"]
    scale: Float[Tensor, "batch"]

    @classmethod
    def drawn(cls, views: Float[Tensor, "batch view 7 small small"], stretch: float, generator: torch.Generator) -> "_Change":
        """Reflected half the time, with other colours half the time, always taller or flatter, by up to e to `stretch`."""
        count = len(views)
        mirrored, recoloured = torch.rand(2, count, generator=generator) < 0.5
        order = torch.rand(count, 3, generator=generator).argsort(dim=1)
        gain = 0.75 + 0.35 * torch.rand(count, generator=generator)
        taller = torch.exp((torch.rand(count, generator=generator) * 2 - 1) * stretch)
        inside = views[:, 0, 3] >= 0.5
        height, width = inside.any(dim=2).sum(dim=1).clamp(min=1), inside.any(dim=1).sum(dim=1).clamp(min=1)
        return cls(
            mirrored=mirrored,
            order=torch.where(recoloured[:, None], order, torch.arange(3)),
            gain=torch.where(recoloured, gain, 1.0),
            taller=taller,
            scale=torch.maximum(width, height) / torch.maximum(width, height * taller),
        )

    def of(self, pictures: Float[Tensor, "batch view channel height width"]) -> Tensor:
        """Fronts alone, without normals, or all views with them, changed."""
        flipped = pictures.flip(-1) if pictures.shape[1] == 1 else reflected(pictures)
        pictures = torch.where(self.mirrored[:, None, None, None, None], flipped, pictures)
        return self._stretched(self._recoloured(pictures))

    def raised(self, elevations: Float[Tensor, "batch"]) -> Float[Tensor, "batch"]:
        """Elevations of the fronts, radians: what is stretched upwards looks as if it were seen from higher up."""
        return torch.atan(elevations.tan() * self.taller)

    def _recoloured(self, pictures: Tensor) -> Tensor:
        colours, others = pictures[:, :, :3], pictures[:, :, 3:]
        white = 1 - others[:, :, :1]
        exchanged = (colours - white).gather(2, self.order[:, None, :, None, None].expand_as(colours))
        return torch.cat([(exchanged * self.gain[:, None, None, None, None] + white).clamp(0, 1), others], dim=2)

    def _stretched(self, pictures: Tensor) -> Tensor:
        turn = torch.zeros(len(pictures), 2, 3)
        turn[:, 0, 0], turn[:, 1, 1] = 1 / self.scale, 1 / (self.scale * self.taller)
        grid = functional.affine_grid(turn, [len(pictures), 1, *pictures.shape[-2:]], align_corners=False)
        # Outside of the picture there is nothing, which colours over white call one.
        blank = torch.cat([1 - pictures[:, :, :3], pictures[:, :, 3:]], dim=2).flatten(1, 2)
        moved = functional.grid_sample(blank, grid, align_corners=False).unflatten(1, pictures.shape[1:3])
        normals = moved[:, :, 4:]
        factors = torch.stack([torch.ones_like(self.taller), 1 / self.taller, torch.ones_like(self.taller)], dim=1)
        turned = functional.normalize(normals * factors[:, None, : normals.shape[2], None, None], dim=2)
        return torch.cat([1 - moved[:, :, :3], moved[:, :, 3:4], turned * normals.norm(dim=2, keepdim=True)], dim=2)


def train_regressor(
    views: Path, out: Path, config: RegressorConfig, *, device: str, features: Path | None = None, base: Path | None = None
) -> Path:
    """Train and export the first guess of the views.

    Args:
        views: Folder of `img2mesh data render`.
        out: Checkpoint, log, sample sheets and `regressor.safetensors` go here.
        device: "cpu" or "cuda".
        features: The published EfficientNet-Lite0 to start from, see `features.published_features`.
        base: Instead of it, weights of the regressor to start as, or of a generator that has one.

    Returns:
        The weights file.

    Raises:
        InputError: `base` has no guess of this size.
    """
    data, held_back = RenderedObjects(views, "train"), RenderedObjects(views, "val")
    out.mkdir(parents=True, exist_ok=True)
    task = _Task(data, features, base, out, config, device)
    weights = out / "regressor.safetensors"
    train(task.network, task.loss, config, out, lambda: _export(task, held_back, weights), lambda n: n.startswith("pictures."))
    return weights


@torch.no_grad()
def _export(task: _Task, held_back: RenderedObjects, path: Path) -> None:
    """Write the weights, and a sheet and the scores of the five unseen views of held-back objects."""
    save_weights(path, task.network.state_dict(), CONFIG)
    task.network.eval()
    rows, scores = [], []
    for item in range(0, len(held_back), max(1, len(held_back) // 24)):
        truth = held_back.load(item)
        front = torch.cat([truth.rgb[:1], truth.alpha[:1, None]], dim=1).to(task.device)
        guess = functional.interpolate(task.network.views(front)[0].cpu(), size=truth.rgb.shape[-2:], mode="bicubic")
        rgb, alpha = guess[:, :3].clamp(0, 1), guess[:, 3]
        scores.append((psnr(rgb[1:], truth.rgb[1:]), silhouette_iou(alpha[1:], truth.alpha[1:])))
        rows += [list(truth.rgb), list(rgb), list((guess[:, 4:] + 1) / 2)]
    task.network.train()
    psnr_db, iou = torch.tensor(scores).mean(dim=0).tolist()
    print("val " + json.dumps({"psnr_db": round(psnr_db, 3), "silhouette_iou": round(iou, 3)}), flush=True)
    write_sheet(path.with_suffix(".png"), rows[:18])
