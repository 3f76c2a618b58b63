"""Other objects, made of those of a batch.

The cameras stand level and are orthographic. So moving rows up or down, and drawing them wider or narrower about the middle, in
all six views alike gives the true views of another object.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from img2mesh.data.render import FRAME_LIMIT, FRONT_SIDE
from img2mesh.models.regressor import reflected

# Rows of the tables that say what becomes of a picture's: as many as the largest picture has. Smaller pictures take means.
_ROWS = 128
# Waves of bends and swellings over an object's height.
_WAVES = torch.tensor([1.0, 2.0, 3.0]) * math.pi


@dataclass(frozen=True, kw_only=True)
class ReshapeConfig:
    """How far objects are changed.

    Attributes:
        stretch: They are stretched upwards by up to e to this power, or shrunk.
        bend: Of each wave: parts are stretched by up to this share more or less than others.
        swell: Of each wave: parts are wider or narrower than others by up to e to this power.
    """

    stretch: float = 0.35
    bend: float = 0.2
    swell: float = 0.15


@dataclass(frozen=True, kw_only=True)
class Change:
    """What is done to the objects of a batch, to each in all pictures alike.

    Attributes:
        mirrored: Reflected in x.
        order: Of the colour channels.
        gain: Of all colours.
        source: Where each row is taken from, in [-1, 1] from the upper edge to the lower one.
        widen: By which each row is drawn wider about the middle.
        flatten: By which the y of each row's normals grows beside x and z.
    """

    mirrored: Bool[Tensor, "batch"]
    order: Int[Tensor, "batch 3"]
    gain: Float[Tensor, "batch"]
    source: Float[Tensor, "batch row"]
    widen: Float[Tensor, "batch row"]
    flatten: Float[Tensor, "batch row"]

    @classmethod
    def drawn(
        cls, views: Float[Tensor, "batch view 7 small small"], config: ReshapeConfig, generator: torch.Generator
    ) -> "Change":
        """Reflected half the time, with other colours half the time, always reshaped and placed as rendered objects are."""
        count = len(views)
        mirrored, recoloured = torch.rand(2, count, generator=generator) < 0.5
        order = torch.rand(count, 3, generator=generator).argsort(dim=1)
        gain = 0.75 + 0.35 * torch.rand(count, generator=generator)
        source, widen, flatten = _reshaped(views[:, :, 3] >= 0.5, config, generator)
        return cls(
            mirrored=mirrored,
            order=torch.where(recoloured[:, None], order, torch.arange(3)),
            gain=torch.where(recoloured, gain, 1.0),
            source=source,
            widen=widen,
            flatten=flatten,
        )

    def of(self, pictures: Float[Tensor, "batch view channel height width"]) -> Tensor:
        """Fronts alone, without normals, or all views with them, changed."""
        flipped = pictures.flip(-1) if pictures.shape[1] == 1 else reflected(pictures)
        return self._moved(self._recoloured(torch.where(self.mirrored[:, None, None, None, None], flipped, pictures)))

    def _recoloured(self, pictures: Tensor) -> Tensor:
        colours, others = pictures[:, :, :3], pictures[:, :, 3:]
        white = 1 - others[:, :, :1]
        exchanged = (colours - white).gather(2, self.order[:, None, :, None, None].expand_as(colours))
        return torch.cat([(exchanged * self.gain[:, None, None, None, None] + white).clamp(0, 1), others], dim=2)

    def _moved(self, pictures: Tensor) -> Tensor:
        size = pictures.shape[-1]
        tables = (self.source, self.widen, self.flatten)
        y, widen, flatten = (functional.adaptive_avg_pool1d(table, size)[:, :, None] for table in tables)
        x = _line(size) / widen
        # Outside of the picture there is nothing, which colours over white call one.
        blank = torch.cat([1 - pictures[:, :, :3], pictures[:, :, 3:]], dim=2).flatten(1, 2)
        grid = torch.stack([x, y.expand_as(x)], dim=-1)
        moved = functional.grid_sample(blank, grid, align_corners=False).unflatten(1, pictures.shape[1:3])
        normals = moved[:, :, 4:]
        factors = torch.stack([torch.ones_like(flatten), flatten, torch.ones_like(flatten)], dim=1)
        turned = functional.normalize(normals * factors[:, None, : normals.shape[2]], dim=2)
        return torch.cat([1 - moved[:, :, :3], moved[:, :, 3:4], turned * normals.norm(dim=2, keepdim=True)], dim=2)


def _reshaped(
    inside: Bool[Tensor, "batch view small small"], config: ReshapeConfig, generator: torch.Generator
) -> tuple[Float[Tensor, "batch row"], Float[Tensor, "batch row"], Float[Tensor, "batch row"]]:
    """`source`, `widen` and `flatten` of objects with these masks, random, such that they fit their frames again.

    The front's longest side becomes what it is of rendered objects, or less where another view would leave its frame.
    """
    count, small = inside.shape[0], inside.shape[-1]
    taller = torch.exp(config.stretch * _even((count, 1), generator))
    bend, swell = (size * _even((count, 1, len(_WAVES)), generator) for size in (config.bend, config.swell))
    reach = (inside * (_line(small).abs() + 1 / small)).amax(dim=3)
    half = ((reach[:, 0] > 0) * (_line(small).abs() + 1 / small)).amax(dim=1, keepdim=True).clamp(min=1 / small)

    def taken(place: Float[Tensor, "batch row"]) -> tuple[Tensor, Tensor, Tensor]:
        """Of places from -1 to 1 of the changed object: row they come from, how fast it moves, and how much wider they are."""
        angle = place.clamp(-1, 1)[..., None] * _WAVES
        row = half * (place + (angle.sin() / _WAVES * bend).sum(dim=-1))
        wider = torch.exp((((angle + _WAVES) / 2).cos() * swell).sum(dim=-1))
        return row, 1 + (angle.cos() * bend).sum(dim=-1), wider

    row, _, wider = taken(_line(_ROWS).expand(count, -1))
    nearest = ((row + 1) / 2 * small).long().clamp(0, small - 1)
    tall = half * taller
    front, widest = (
        torch.maximum((side.gather(1, nearest) * wider).amax(dim=1, keepdim=True), tall)
        for side in (reach[:, 0], reach.amax(dim=1))
    )
    scale = torch.minimum(FRONT_SIDE / 2 / front, FRAME_LIMIT / widest)
    row, pace, wider = taken(_line(_ROWS) / (scale * tall))
    return row, scale * wider, wider * pace / taller


def _line(size: int) -> Float[Tensor, "size"]:
    """Middles of pixels along a side from -1 to 1."""
    return (torch.arange(size) + 0.5) / size * 2 - 1


def _even(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Evenly from -1 to 1."""
    return torch.rand(shape, generator=generator) * 2 - 1
