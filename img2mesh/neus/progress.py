"""How far a fit has come, on disk: a fit that was interrupted goes on from there and ends with the same bytes."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from img2mesh.geometry.views import Views
from img2mesh.neus.config import FitConfig


@dataclass(kw_only=True)
class Learnt:
    """Values on the band, with Adam's moments beside them; a step changes them in place."""

    values: Tensor
    first: Tensor
    second: Tensor


@dataclass(frozen=True, kw_only=True)
class Progress:
    """A fit between two bands.

    Attributes:
        level: Number of the level of the grid.
        done: Steps of this level.
        halvings: How often the learning rate was halved.
        loss: Mean of the last steps.
        sdf: The field now.
        around: The field about which the last band was built.
        change: What the levels before changed about the start, on their own grid.
        distances: What was learnt on that band; nothing before the first step of a level.
        colours: The same of colours.
    """

    level: int
    done: int = 0
    halvings: int = 0
    loss: float = float("inf")
    sdf: Float[Tensor, "z y x"]
    around: Float[Tensor, "z y x"] | None = None
    change: Float[Tensor, "z y x"] | None = None
    distances: Learnt | None = None
    colours: Learnt | None = None


@dataclass(frozen=True, kw_only=True)
class Record:
    """A file that holds a fit's progress.

    Attributes:
        file: None keeps nothing.
        key: What is fitted, to what, from which seed.
    """

    file: Path | None
    key: str

    @classmethod
    def of(cls, file: Path | None, views: Views, config: FitConfig, seed: int) -> "Record":
        """The record of one fit."""
        digest = hashlib.sha256(f"{config.model_dump_json()} {seed}".encode())
        for tensor in (views.rgb, views.alpha, views.normals, views.cameras.world_from_camera) if file else ():
            digest.update(tensor.cpu().numpy().tobytes())
        return cls(file=file, key=digest.hexdigest())

    def write(self, progress: Progress, generator: torch.Generator) -> None:
        """Replace what the file holds, whole or not at all."""
        if self.file is None:
            return
        tensors = {name: value for name, value in vars(progress).items() if isinstance(value, Tensor)}
        for name in ("distances", "colours"):
            learnt: Learnt = getattr(progress, name)
            tensors |= {f"{name}.{part}": value for part, value in vars(learnt).items()}
        tensors["generator"] = generator.get_state()
        numbers = json.dumps([progress.level, progress.done, progress.halvings, progress.loss])
        self.file.parent.mkdir(parents=True, exist_ok=True)
        part = self.file.with_name(f"{self.file.name}.part")
        save_file({n: t.detach().cpu().contiguous() for n, t in tensors.items()}, part, {"key": self.key, "numbers": numbers})
        os.replace(part, self.file)

    def read(self, generator: torch.Generator, device: torch.device) -> Progress | None:
        """The progress of this very fit, if there is any; puts the generator where it was."""
        if self.file is None or not self.file.is_file():
            return None
        try:
            with safe_open(self.file, "pt") as stored:
                if stored.metadata().get("key") != self.key:
                    return None
                tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118 - it is no dictionary
                level, done, halvings, loss = json.loads(stored.metadata()["numbers"])
        except (SafetensorError, OSError):
            return None
        generator.set_state(tensors.pop("generator"))
        tensors = {name: tensor.to(device) for name, tensor in tensors.items()}
        return Progress(
            level=level,
            done=done,
            halvings=halvings,
            loss=loss,
            sdf=tensors["sdf"],
            around=tensors.get("around"),
            change=tensors.get("change"),
            distances=_learnt(tensors, "distances"),
            colours=_learnt(tensors, "colours"),
        )

    def end(self) -> None:
        """Remove the file."""
        if self.file is not None:
            self.file.unlink(missing_ok=True)


def _learnt(tensors: dict[str, Tensor], name: str) -> Learnt:
    return Learnt(**{part: tensors[f"{name}.{part}"] for part in ("values", "first", "second")})
