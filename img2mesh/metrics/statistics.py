"""How sure a mean over objects is."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

RESAMPLES = 10_000


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A mean over objects with its 95% confidence interval; both ends are the mean itself when there is one object."""

    mean: float
    low: float
    high: float
    count: int

    @property
    def settled(self) -> bool:
        """Whether the interval lies on one side of zero."""
        return self.low > 0 or self.high < 0


def estimate(values: Sequence[float], *, seed: int = 0) -> Estimate:
    """Mean of one value an object, and the interval that holds 95% of the means of objects drawn anew with replacement.

    For two methods on the same objects give their differences: what makes an object easy or hard for both then cancels.

    Raises:
        ValueError: There are no values.

    Source: Efron and Tibshirani, An introduction to the bootstrap, 1993, the percentile interval.
    """
    array = np.asarray(values, dtype=np.float64)
    if not len(array):
        raise ValueError("an estimate needs at least one value")
    drawn = np.random.default_rng(seed).integers(len(array), size=(RESAMPLES, len(array)))
    low, high = np.quantile(array[drawn].mean(axis=1), (0.025, 0.975))
    return Estimate(mean=float(array.mean()), low=float(low), high=float(high), count=len(array))


def estimates(rows: Sequence[dict[str, float]], *, seed: int = 0) -> dict[str, Estimate]:
    """`estimate` of every column of one row an object."""
    return {name: estimate([row[name] for row in rows], seed=seed) for name in rows[0]}


def paired(ours: Sequence[dict[str, float]], theirs: Sequence[dict[str, float]], *, seed: int = 0) -> dict[str, Estimate]:
    """`estimate` of ours minus theirs, object by object, for every column that both have."""
    return {
        name: estimate([mine[name] - other[name] for mine, other in zip(ours, theirs, strict=True)], seed=seed)
        for name in ours[0]
        if name in theirs[0]
    }
