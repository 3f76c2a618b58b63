"""Constant sparse matrices inside autograd.

Samples, differences and sums over rays are all linear in the values on the voxels, and they stay the same for many steps. As
matrices in row form, each with its transpose in row form too, they are fast on a CPU, and neither direction adds atomically:
the same input gives the same bytes every time.
"""

import warnings
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from scipy.sparse import csr_array
from torch import Tensor


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, values: Tensor, matrix: Tensor, transpose: Tensor) -> Tensor:
        """The product."""
        ctx.transpose = transpose
        return matrix @ values

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        """The gradients through the transpose."""
        return ctx.transpose @ gradients[0].contiguous(), None, None


@dataclass(frozen=True, kw_only=True)
class LinearMap:
    """A matrix that never learns, and its transpose, both as CSR tensors."""

    matrix: Float[Tensor, "rows columns"]
    transpose: Float[Tensor, "columns rows"]

    def __call__(self, values: Float[Tensor, "columns *channels"]) -> Float[Tensor, "rows *channels"]:
        """The product with the values, differentiable in them."""
        product: Tensor = _Product.apply(values.contiguous(), self.matrix, self.transpose)  # type: ignore[no-untyped-call]
        return product


def from_rows(columns: Int[Tensor, "rows entries"], weights: Float[Tensor, "rows entries"], count: int) -> LinearMap:
    """The map whose every row is the weighted sum of as many values.

    Args:
        columns: Which values, below `count`.
        weights: With which weights.
        count: Number of values.
    """
    rows, entries = columns.shape
    flat, values = columns.reshape(-1).to(torch.int32), weights.reshape(-1)
    starts = torch.arange(0, rows * entries + 1, entries, dtype=torch.int32, device=flat.device)
    transposed = _transposed if flat.device.type == "cpu" else _sorted
    by_column = transposed(starts, flat, values, count)
    return LinearMap(matrix=_csr(starts, flat, values, (rows, count)), transpose=_csr(*by_column, (count, rows)))


def _transposed(starts: Tensor, columns: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """A matrix by columns: starts, rows and values. Counting takes a tenth of the time of sorting."""
    rows = csr_array((values.numpy(), columns.numpy(), starts.numpy()), shape=(len(starts) - 1, count))
    by_column = rows.tocsc()
    return torch.from_numpy(by_column.indptr), torch.from_numpy(by_column.indices), torch.from_numpy(by_column.data)


def _sorted(starts: Tensor, columns: Tensor, values: Tensor, count: int) -> tuple[Tensor, Tensor, Tensor]:
    """As `_transposed`, on a GPU; every row has equally many entries."""
    order = torch.argsort(columns, stable=True)
    entries = len(columns) // max(1, len(starts) - 1)
    return _starts(columns, count), (order // entries).to(torch.int32), values[order]


def sum_of_groups(group: Int[Tensor, "values"], count: int) -> LinearMap:
    """The map that adds up values by their group.

    Args:
        group: Group of each value, ascending, below `count`.
        count: Number of groups.
    """
    size = group.numel()
    each = torch.arange(size + 1, dtype=torch.int32, device=group.device)
    ones = torch.ones(size, device=group.device)
    return LinearMap(
        matrix=_csr(_starts(group, count), each[:-1], ones, (count, size)),
        transpose=_csr(each, group.to(torch.int32), ones, (size, count)),
    )


def _starts(sorted_or_not: Int[Tensor, "values"], count: int) -> Int[Tensor, "count+1"]:
    sizes = torch.bincount(sorted_or_not, minlength=count)
    return torch.cat([sizes.new_zeros(1), sizes.cumsum(0)]).to(torch.int32)


def _csr(starts: Tensor, columns: Tensor, values: Tensor, size: tuple[int, int]) -> Tensor:
    with warnings.catch_warnings():
        # torch announces its CSR tensors as beta, once a process, to a person who cannot do anything about it.
        warnings.filterwarnings("ignore", message="Sparse CSR tensor support is in beta")
        return torch.sparse_csr_tensor(starts, columns, values, size, check_invariants=False)
