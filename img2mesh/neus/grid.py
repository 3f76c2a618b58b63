"""Values on the corners of a cubic grid over [-1, 1]^3, flat index `(z * resolution + y) * resolution + x`."""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor


def spacing(resolution: int) -> float:
    """Distance of neighbouring corners, scene units."""
    return 2.0 / (resolution - 1)


def corner_points(flat: Int[Tensor, "corners"], resolution: int) -> Float[Tensor, "corners 3"]:
    """World positions (x, y, z) of corners."""
    columns = torch.stack([flat % resolution, flat // resolution % resolution, flat // resolution**2], dim=-1)
    return columns.to(torch.float32) * spacing(resolution) - 1.0


def cells_of(points: Float[Tensor, "points 3"], resolution: int) -> tuple[Int[Tensor, "points"], Float[Tensor, "points 3"]]:
    """Lowest corner of the cell around each point (the nearest cell for points outside), and the place in the cell, 0 to 1."""
    scaled = (points + 1.0) / spacing(resolution)
    base = scaled.floor().clamp(0, resolution - 2)
    x, y, z = base.to(torch.int64).unbind(-1)
    return (z * resolution + y) * resolution + x, (scaled - base).clamp(0, 1)


def trilinear(
    base: Int[Tensor, "points"], place: Float[Tensor, "points 3"], resolution: int
) -> tuple[Int[Tensor, "points 8"], Float[Tensor, "points 8"]]:
    """The eight corners of each cell and their weights at a place in it."""
    steps = torch.tensor([0, 1], device=base.device)
    offsets = (steps[:, None, None] * resolution + steps[:, None]) * resolution + steps
    x, y, z = (torch.stack([1 - p, p], dim=-1) for p in place.unbind(-1))
    weights = z[:, :, None, None] * y[:, None, :, None] * x[:, None, None, :]
    return base[:, None] + offsets.reshape(1, 8), weights.reshape(-1, 8)


def sample(grid: Float[Tensor, "z y x"], points: Float[Tensor, "*points 3"]) -> Float[Tensor, "*points"]:
    """Trilinear values at world points; outside the cube the nearest boundary's."""
    flat = points.reshape(1, 1, 1, -1, 3)
    values = F.grid_sample(grid[None, None], flat, align_corners=True, padding_mode="border")
    return values.reshape(points.shape[:-1])


def resampled(grid: Float[Tensor, "z y x"], resolution: int) -> Float[Tensor, "resolution resolution resolution"]:
    """The same field on the corners of another grid, trilinear."""
    if grid.shape[0] == resolution:
        return grid
    return F.interpolate(grid[None, None], size=(resolution,) * 3, mode="trilinear", align_corners=True)[0, 0]


def all_corners(flags: Tensor) -> Tensor:
    """Which cells, by their lowest corner, have all eight corners flagged; false on the upper faces."""
    cells = torch.zeros_like(flags)
    low, high = slice(None, -1), slice(1, None)
    inner = flags[low, low, low]
    for z in (low, high):
        for y in (low, high):
            for x in (low, high):
                inner = inner & flags[z, y, x]
    cells[low, low, low] = inner
    return cells
