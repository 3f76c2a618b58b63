"""Training of the first guess of the views, on shrunk views that are read once."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn import functional

from img2mesh.data.dataset import RenderedObjects
from img2mesh.metrics.image import psnr, silhouette_iou
from img2mesh.models import placement
from img2mesh.models.checkpoint import save_weights
from img2mesh.models.features import PictureFeatures, folded
from img2mesh.models.regressor import GUESS_CHANNELS, ViewRegressor, reflected, shown
from img2mesh.training.loop import LoopConfig, train
from img2mesh.training.sheets import write_sheet

CONFIG: dict[str, Any] = {"size_px": 32, "channels": [24, 48, 96, 192], "dropout": 0.2}
_READ_AT_ONCE = 32


@dataclass(frozen=True, kw_only=True)
class RegressorConfig:
    """What one step looks at.

    Attributes:
        batch: Fronts a step.
        colour: Weight of the squared error of colours, beside the coverage's cross-entropy.
        normal: Weight of the squared error of normals.
        stretch: Objects are stretched upwards by up to e to this power, or shrunk.
    """

    loop: LoopConfig
    batch: int = 32
    colour: float = 4.0
    normal: float = 0.5
    stretch: float = 0.35

    @classmethod
    def of(cls, *, steps: int, seed: int) -> "RegressorConfig":
        """What the shipped one was trained with."""
        loop = LoopConfig(
            steps=steps, seed=seed, matrix_lr=0.02, weight_decay=0.05, warmup_steps=50, cooldown=0.5, ema_decay=0.998
        )
        return cls(loop=loop)


@dataclass(frozen=True, kw_only=True)
class Shrunk:
    """All fronts of a split, shrunk, and the features of the fronts and of their mirror images.

    Attributes:
        views: Colour over white, coverage and normals, all brought to [0, 255].
    """

    views: UInt8[Tensor, "front view 7 small small"]
    fine: Float[Tensor, "front 2 channel 8 8"]
    coarse: Float[Tensor, "front 2 channel 4 4"]

    def batch(self, chosen: Tensor) -> Float[Tensor, "batch view 7 small small"]:
        """Views of the chosen fronts, colour and coverage in [0, 1]."""
        views = self.views[chosen].float() / 255
        return torch.cat([views[:, :, :4], views[:, :, 4:] * 2 - 1], dim=2)


@torch.no_grad()
def _shrink(data: RenderedObjects, pictures: PictureFeatures, size_px: int) -> Shrunk:
    """Read every front once."""
    views: list[Tensor] = []
    fine: list[Tensor] = []
    coarse: list[Tensor] = []
    for start in range(0, len(data), _READ_AT_ONCE):
        samples = [data.load(item) for item in range(start, min(start + _READ_AT_ONCE, len(data)))]
        fronts = torch.stack([sample.rgb[0] for sample in samples])
        both = pictures(torch.cat([fronts, fronts.flip(-1)]).contiguous(memory_format=torch.channels_last))
        for kept, features in zip((fine, coarse), both, strict=True):
            kept.append(torch.stack(features.half().contiguous().chunk(2), dim=1))
        for sample in samples:
            whole = torch.cat([sample.rgb, sample.alpha[:, None], (sample.normals + 1) / 2], dim=1)
            views.append((functional.adaptive_avg_pool2d(whole, size_px) * 255).round().to(torch.uint8))
    return Shrunk(views=torch.stack(views), fine=torch.cat(fine), coarse=torch.cat(coarse))


def _read(data: RenderedObjects, pictures: PictureFeatures, kept: Path) -> Shrunk:
    """What `_shrink` gives, kept in a file for the next start with as many fronts."""
    if kept.is_file() and len((shrunk := Shrunk(**load_file(kept))).views) == len(data):
        return shrunk
    partial = kept.with_suffix(".part")
    save_file(vars(_shrink(data, pictures, CONFIG["size_px"])), partial)
    os.replace(partial, kept)
    return Shrunk(**load_file(kept))


class _Task:
    """The network and the data of one training run."""

    def __init__(self, data: RenderedObjects, features: Path, out: Path, config: RegressorConfig, device: str) -> None:
        torch.manual_seed(config.loop.seed)
        self.config, self.device, self.weights = config, device, data.weights
        self.network = ViewRegressor(CONFIG)
        # The published file is a pickle; nothing but tensors is read from it.
        self.network.pictures.load_state_dict(folded(torch.load(features, weights_only=True)))
        self.network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
        self.shrunk = _read(data, self.network.pictures, out / "shrunk.safetensors")

    def loss(self, generator: torch.Generator) -> dict[str, Tensor]:
        """Cross-entropy of coverage, squared errors of colours over white and of normals."""
        chosen = torch.multinomial(self.weights, self.config.batch, replacement=True, generator=generator)
        views, mirror = self.shrunk.batch(chosen), torch.rand(len(chosen), generator=generator) < 0.5
        views = torch.where(mirror[:, None, None, None, None], reflected(views), views)
        views = _stretched(_recoloured(views, generator), self.config.stretch, generator).to(self.device)
        features = [kept[chosen, mirror.long()].float().to(self.device) for kept in (self.shrunk.fine, self.shrunk.coarse)]
        with placement.training(self.device):
            raw = self.network(views[:, 0, :4].contiguous(memory_format=torch.channels_last), features).float()
        coverage = functional.binary_cross_entropy_with_logits(raw[:, :, 3], views[:, :, 3])
        error = (shown(raw) - views).square()
        colour, normal = error[:, :, :3].mean(), error[:, :, 4:].mean()
        loss = coverage + self.config.colour * colour + self.config.normal * normal
        return {"loss": loss, "coverage": coverage.detach(), "colour": colour.detach(), "normal": normal.detach()}


def _recoloured(views: Tensor, generator: torch.Generator) -> Tensor:
    """Colours exchanged or dimmed, the same in all views of an object, half the time."""
    count = len(views)
    orders = torch.rand(count, 3, generator=generator).argsort(dim=1)
    gain = (0.75 + 0.35 * torch.rand(count, generator=generator))[:, None, None, None, None]
    white = 1 - views[:, :, 3:4]
    exchanged = (views[:, :, :3] - white).gather(2, orders[:, None, :, None, None].expand_as(views[:, :, :3]))
    other = torch.cat([(exchanged * gain + white).clamp(0, 1), views[:, :, 3:]], dim=2)
    return torch.where((torch.rand(count, generator=generator) < 0.5)[:, None, None, None, None], other, views)


def _stretched(views: Tensor, strength: float, generator: torch.Generator) -> Tensor:
    """Objects made taller or flatter; the front's longest side stays, since a small front tells of a deep object."""
    count, size = len(views), views.shape[-1]
    taller = torch.exp((torch.rand(count, generator=generator) * 2 - 1) * strength)
    inside = views[:, 0, 3] >= 0.5
    height, width = inside.any(dim=2).sum(dim=1).clamp(min=1), inside.any(dim=1).sum(dim=1).clamp(min=1)
    scale = torch.maximum(width, height) / torch.maximum(width, height * taller)
    turn = torch.zeros(count, 2, 3)
    turn[:, 0, 0], turn[:, 1, 1] = 1 / scale, 1 / (scale * taller)
    grid = functional.affine_grid(turn, [count, 1, size, size], align_corners=False)
    # Outside of the picture there is nothing, which colours over white call one.
    blank = torch.cat([1 - views[:, :, :3], views[:, :, 3:]], dim=2).flatten(1, 2)
    moved = functional.grid_sample(blank, grid, align_corners=False).unflatten(1, (-1, GUESS_CHANNELS))
    normals, lengths = moved[:, :, 4:], moved[:, :, 4:].norm(dim=2, keepdim=True)
    factors = torch.stack([torch.ones(count), 1 / taller, torch.ones(count)], dim=1)[:, None, :, None, None]
    turned = functional.normalize(normals * factors, dim=2) * lengths
    return torch.cat([1 - moved[:, :, :3], moved[:, :, 3:4], turned], dim=2)


def train_regressor(views: Path, features: Path, out: Path, config: RegressorConfig, *, device: str) -> Path:
    """Train and export the first guess of the views.

    Args:
        views: Folder of `img2mesh data render`.
        features: The published EfficientNet-Lite0, see `features.published_features`.
        out: Checkpoint, log, sample sheets and `regressor.safetensors` go here.
        device: "cpu" or "cuda".

    Returns:
        The weights file.
    """
    data, held_back = RenderedObjects(views, "train"), RenderedObjects(views, "val")
    out.mkdir(parents=True, exist_ok=True)
    task = _Task(data, features, out, config, device)
    weights = out / "regressor.safetensors"
    train(task.network, task.loss, config, out, lambda: _export(task, held_back, weights))
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
