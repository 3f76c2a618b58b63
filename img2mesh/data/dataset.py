"""Rendered views as training samples: what `img2mesh data render` wrote, read front by front."""

import json
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from safetensors import safe_open
from torch import Tensor

from img2mesh.errors import InputError

# Other sources have several times as many objects, but household goods in full detail are what people photograph.
SOURCE_WEIGHTS = {"sweethome3d-furniture": 1.0, "0ad-data": 0.5, "folder": 0.4}
# Most pictures are taken from an object's own front.
OWN_FRONT_WEIGHT = 2.5
# Of objects that come without splits, every so manyth is held back.
HELD_BACK = 50


@dataclass(frozen=True, kw_only=True)
class Sample:
    """Six views of one object from one front.

    Attributes:
        rgb: sRGB in [0, 1], over white.
        alpha: Coverage in [0, 1].
        normals: World frame, length at most 1, zero in the background.
        depth: z-depth, scene units, zero in the background.
    """

    rgb: Float[Tensor, "view 3 height width"]
    alpha: Float[Tensor, "view height width"]
    normals: Float[Tensor, "view 3 height width"]
    depth: Float[Tensor, "view height width"]

    def picture(self) -> Float[Tensor, "4 height width"]:
        """The front with straight alpha, as a picture file has it."""
        alpha = self.alpha[:1]
        return torch.cat([(self.rgb[0] - (1 - alpha)) / alpha.clamp(min=1 / 255), alpha]).clamp(0, 1)


class RenderedObjects:
    """The fronts of all rendered objects of one split; `item` indexes fronts."""

    def __init__(self, folder: Path, split: str) -> None:
        """Index the folder.

        Raises:
            InputError: Nothing of this split has been rendered there.
        """
        self.items: list[tuple[Path, int]] = []
        weights: list[float] = []
        raised_deg: list[float] = []
        for row in _rows(folder):
            if row["split"] != split:
                continue
            path = folder / row["file"]
            with safe_open(path, "pt") as file:
                azimuths = file.get_tensor("front_azimuth_deg")
                # Views rendered by earlier versions are level.
                raised = "front_elevation_deg" in file.keys()  # noqa: SIM118  # not a mapping
                elevations = file.get_tensor("front_elevation_deg") if raised else torch.zeros_like(azimuths)
            own = (azimuths == 0) & (elevations == 0)
            self.items += [(path, front) for front in range(len(own))]
            raised_deg += elevations.tolist()
            weight = SOURCE_WEIGHTS.get(row["source"], 1.0)
            weights += [weight * (OWN_FRONT_WEIGHT if front else 1.0) for front in own.tolist()]
        if not self.items:
            raise InputError(f"no rendered objects of the split '{split}' in {folder}: run img2mesh data render first")
        self.weights, self.elevations_deg = torch.tensor(weights), torch.tensor(raised_deg)

    def __len__(self) -> int:
        """Number of fronts."""
        return len(self.items)

    def draw(self, count: int, generator: torch.Generator) -> list[int]:
        """Random items, household goods more often than their share."""
        return torch.multinomial(self.weights, count, replacement=True, generator=generator).tolist()

    def load_front(self, item: int) -> Float[Tensor, "4 height width"]:
        """The front view alone: sRGB over white, then coverage."""
        path, front = self.items[item]
        with safe_open(path, "pt") as file:
            rgba = file.get_slice("rgba")[front, 0].float() / 255
        alpha = rgba[..., 3:]
        return torch.cat([rgba[..., :3] * alpha + (1 - alpha), alpha], dim=-1).movedim(-1, 0)

    def load(self, item: int) -> Sample:
        """One front's six views."""
        return read_sample(*self.items[item])


def read_sample(path: Path, front: int) -> Sample:
    """The six views of one of an object's fronts."""
    with safe_open(path, "pt") as file:
        rgba = file.get_slice("rgba")[front].float() / 255
        normals = file.get_slice("normal")[front].float() / 127.5 - 1
        depth = file.get_slice("depth")[front].float()
    alpha = rgba[..., 3]
    rgb = rgba[..., :3] * alpha[..., None] + (1 - alpha[..., None])
    return Sample(
        rgb=rgb.movedim(-1, 1),
        alpha=alpha,
        normals=(normals * alpha[..., None]).movedim(-1, 1),
        depth=depth,
    )


def _rows(folder: Path) -> list[dict[str, str]]:
    index = folder / "index.jsonl"
    if not index.is_file():
        raise InputError(f"{folder} has no index.jsonl: run img2mesh data render OBJECTS --out {folder} first")
    rows: list[dict[str, str]] = [json.loads(line) for line in index.read_text(encoding="utf-8").splitlines()]
    if any(row["split"] != "train" for row in rows):
        return rows
    stride = min(HELD_BACK, len(rows))
    return [row | {"split": "train" if number % stride else "val"} for number, row in enumerate(rows, start=1)]
