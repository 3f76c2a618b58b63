"""The voxels near the surface: only they have values that learn, and only cells among them are sampled."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from img2mesh.neus.grid import all_corners, spacing
from img2mesh.neus.sparse import LinearMap, from_rows

# Neighbouring voxels this close to the surface, in voxels, should have similar normals.
_SURFACE_VOXELS = 1.5


@dataclass(frozen=True, kw_only=True)
class Band:
    """Active voxels of a grid and the linear maps on their values.

    Attributes:
        resolution: Corners along each side of the grid.
        active: Flat grid index of each active voxel, ascending.
        slot: Number of each grid corner among the active voxels, -1 elsewhere.
        cells: Cells, by their lowest corner, whose eight corners are active.
        differences: Map from active distances to their gradients, x of all voxels first, then y, then z.
        outside: What the frozen neighbours of the band add to those gradients.
        bends: Map from values on active voxels to their differences between neighbours at the surface.
    """

    resolution: int
    active: Int[Tensor, "active"]
    slot: Int[Tensor, "corners"]
    cells: Bool[Tensor, "z y x"]
    differences: LinearMap
    outside: Float[Tensor, "3 active"]
    bends: LinearMap

    def gradients(self, values: Float[Tensor, "active"]) -> Float[Tensor, "3 active"]:
        """Central differences of the distances, one-sided at the faces of the cube."""
        return self.differences(values).reshape(3, -1) + self.outside

    def carried(self, values: Float[Tensor, "active *channels"], other: "Band") -> tuple[Tensor, Bool[Tensor, "other"]]:
        """Values moved to another band of the same grid, zero where this one has none, and where it has some."""
        source = self.slot[other.active]
        known = source >= 0
        moved = values.new_zeros(len(source), *values.shape[1:])
        moved[known] = values[source[known].long()]
        return moved, known


def build_band(sdf: Float[Tensor, "z y x"], half_width_voxels: float) -> Band:
    """The band of voxels whose distance is below a number of voxels."""
    resolution = sdf.shape[0]
    near = sdf.abs() < half_width_voxels * spacing(resolution)
    active = near.reshape(-1).nonzero()[:, 0]
    slot = torch.full((resolution**3,), -1, dtype=torch.int32, device=sdf.device)
    slot[active] = torch.arange(len(active), dtype=torch.int32, device=sdf.device)
    differences, outside = _differences(sdf, active, slot)
    return Band(
        resolution=resolution,
        active=active,
        slot=slot,
        cells=all_corners(near),
        differences=differences,
        outside=outside,
        bends=_bends(sdf, active, slot),
    )


def _neighbours(active: Int[Tensor, "active"], resolution: int, step: int) -> Int[Tensor, "3 active"]:
    """Flat index of the next corner along x, y and z in the direction of `step`; the corner itself at a face."""
    strides = torch.tensor([[1], [resolution], [resolution**2]], device=active.device)
    place = active // strides % resolution
    return active + ((place + step).clamp(0, resolution - 1) - place) * strides


def _differences(sdf: Tensor, active: Tensor, slot: Tensor) -> tuple[LinearMap, Float[Tensor, "3 active"]]:
    resolution = sdf.shape[0]
    ends = torch.stack([_neighbours(active, resolution, step) for step in (1, -1)], dim=-1)
    reach = (ends != active[:, None]).sum(-1, keepdim=True) * spacing(resolution)
    weights = torch.tensor([1.0, -1.0], device=sdf.device) / reach
    columns = slot[ends]
    frozen = columns < 0
    outside = (torch.where(frozen, sdf.reshape(-1)[ends], 0.0) * weights).sum(-1)
    inner = torch.where(frozen, 0.0, weights)
    return from_rows(columns.clamp(min=0).reshape(-1, 2), inner.reshape(-1, 2), len(active)), outside


def _bends(sdf: Tensor, active: Tensor, slot: Tensor) -> LinearMap:
    close = sdf.reshape(-1)[active].abs() < _SURFACE_VOXELS * spacing(sdf.shape[0])
    here = close.nonzero()[:, 0]
    after = slot[_neighbours(active[here], sdf.shape[0], 1)].long()
    pairs = torch.stack([here.expand_as(after), after], dim=-1).reshape(-1, 2)
    pairs = pairs[(pairs[:, 1] >= 0) & (pairs[:, 0] != pairs[:, 1])]
    signs = torch.tensor([-1.0, 1.0], device=sdf.device).expand(len(pairs), 2)
    return from_rows(pairs, signs, len(active))
