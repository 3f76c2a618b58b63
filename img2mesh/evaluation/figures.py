"""Scores as they change with one setting, drawn."""

import math
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from img2mesh.evaluation.report import Comparison
from img2mesh.metrics.statistics import Estimate, estimates

# Column and what its axis is called.
_PANELS = {"psnr_db": "PSNR of the unseen views, dB", "reprojection": "reprojection error"}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_curves(path: Path, comparison: Comparison, axis: str, curves: Mapping[str, Sequence[tuple[float, str]]]) -> None:
    """Draw one panel a score: a line with its 95% interval for each curve, and a dashed one for the plain decoder.

    Args:
        path: Of the picture; its suffix decides the format.
        comparison: Holds the rows that the curves name.
        axis: What changes along x, with its unit.
        curves: Per line, the values along x with the names of their rows.
    """
    from matplotlib.figure import Figure

    means = {name: estimates(rows) for name, rows in comparison.rows.items()}
    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, (column, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for name, points in curves.items():
            found = [means[row].get(column, Estimate(mean=math.nan, low=math.nan, high=math.nan, count=0)) for _, row in points]
            values = [value for value, _ in points]
            panel.plot(values, [each.mean for each in found], marker="o", label=name)
            panel.fill_between(values, [each.low for each in found], [each.high for each in found], alpha=0.15)
        if column in means.get("plain", {}):
            panel.axhline(means["plain"][column].mean, color="grey", linestyle="--", label="plain")
        panel.set(xlabel=axis, title=title)
        panel.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)
