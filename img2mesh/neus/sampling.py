"""Samples along rays, only where the surface may be."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from img2mesh.neus.grid import cells_of, spacing, trilinear

_CHUNK_POINTS = 1 << 20


@dataclass(frozen=True, kw_only=True)
class Samples:
    """Samples of many rays laid end to end, ordered along each ray.

    Attributes:
        ray: Ray of each sample, ascending.
        place: Number of each sample in its ray, from 0.
        distance: Along the ray, scene units.
        points: World positions.
    """

    ray: Int[Tensor, "samples"]
    place: Int[Tensor, "samples"]
    distance: Float[Tensor, "samples"]
    points: Float[Tensor, "samples 3"]


def march(
    cells: Bool[Tensor, "z y x"],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    *,
    step_voxels: float,
    jitter: Float[Tensor, "rays"] | None = None,
) -> Samples:
    """Equally spaced samples of the rays, without those outside the given cells.

    Args:
        cells: Flags of the cells, each at its lowest corner.
        directions: Unit length.
        step_voxels: Distance of neighbouring samples, voxels.
        jitter: Shift of each ray's samples as a share of the step, in [0, 1); half a step where it is not given.
    """
    low, high = _box(cells)
    near, far = _clip(origins, directions, low, high)
    step = step_voxels * spacing(cells.shape[0])
    shift = torch.full_like(near, 0.5) if jitter is None else jitter
    count = max(1, int((far - near).amax() / step) + 2) if len(near) else 1
    hit = (far > near).nonzero()[:, 0]
    rays, distances = [hit[:0]], [near[:0]]
    for rows in torch.split(hit, max(1, _CHUNK_POINTS // count)):
        along = near[rows, None] + (torch.arange(count, device=rows.device) + shift[rows, None]) * step
        inside = _flagged(cells, origins[rows], directions[rows], along) & (along < far[rows, None])
        row, column = inside.nonzero().unbind(-1)
        rays.append(rows[row])
        distances.append(along[row, column])
    ray, distance = torch.cat(rays), torch.cat(distances)
    place = torch.arange(len(ray), device=ray.device) - torch.searchsorted(ray, ray)
    return Samples(ray=ray, place=place, distance=distance, points=origins[ray] + distance[:, None] * directions[ray])


def _box(cells: Bool[Tensor, "z y x"]) -> tuple[Tensor, Tensor]:
    """World corners of the box around the flagged cells; an empty box where there are none."""
    spans = []
    for axis in (2, 1, 0):
        flagged = cells.any(dim=tuple(a for a in range(3) if a != axis)).nonzero()[:, 0]
        spans.append((int(flagged[0]), int(flagged[-1]) + 1) if len(flagged) else (0, -1))
    bounds = torch.tensor(spans, dtype=torch.float32, device=cells.device).T * spacing(cells.shape[0]) - 1.0
    return bounds[0], bounds[1]


def _clip(origins: Tensor, directions: Tensor, low: Tensor, high: Tensor) -> tuple[Tensor, Tensor]:
    """Distances at which rays enter and leave a box; `far < near` for a ray that misses it."""
    # A direction exactly along a face would divide zero by zero.
    safe = torch.where(directions.abs() < 1e-9, torch.full_like(directions, 1e-9), directions)
    first, second = (low - origins) / safe, (high - origins) / safe
    near = torch.minimum(first, second).amax(-1).clamp(min=0)
    return near, torch.where((high > low).all(), torch.maximum(first, second).amin(-1), near - 1)


def _flagged(
    cells: Bool[Tensor, "z y x"],
    origins: Float[Tensor, "rays 3"],
    directions: Float[Tensor, "rays 3"],
    along: Float[Tensor, "rays steps"],
) -> Bool[Tensor, "rays steps"]:
    """Whether the points at these distances lie in flagged cells."""
    resolution = cells.shape[0]
    base = torch.zeros_like(along, dtype=torch.int32)
    for axis in range(3):
        scaled = (origins[:, axis, None] + along * directions[:, axis, None] + 1.0) / spacing(resolution)
        base += scaled.to(torch.int32).clamp(0, resolution - 2) * resolution**axis
    return cells.reshape(-1)[base]


def corners(points: Float[Tensor, "points 3"], resolution: int) -> tuple[Int[Tensor, "points 8"], Float[Tensor, "points 8"]]:
    """The grid corners around each point, flat, and their trilinear weights."""
    return trilinear(*cells_of(points, resolution), resolution)
