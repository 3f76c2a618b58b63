"""Scores as they change with one setting, drawn."""

from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from img2mesh.evaluation.report import Comparison
from img2mesh.metrics.statistics import paired

# Column and what its axis is called.
_PANELS = {"psnr_db": "PSNR of the unseen views", "reprojection": "reprojection error"}


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return find_spec("matplotlib") is not None


def write_curves(path: Path, comparison: Comparison, axis: str, curves: Mapping[str, Sequence[tuple[float, str]]]) -> None:
    """Draw one panel a score: for each curve a line with its 95% interval, of what it gains over the plain decoder.

    Objects differ by more than decoders do, so the differences on the same objects are what is shown.

    Args:
        path: Of the picture; its suffix decides the format.
        comparison: Holds the rows that the curves name, and `plain`.
        axis: What changes along x, with its unit.
        curves: Per line, the values along x with the names of their rows.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 3.6), layout="constrained")
    for panel, (column, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for name, points in curves.items():
            found = [paired(comparison.rows[row], comparison.rows["plain"])[column] for _, row in points]
            values = [value for value, _ in points]
            panel.plot(values, [each.mean for each in found], marker="o", label=name)
            panel.fill_between(values, [each.low for each in found], [each.high for each in found], alpha=0.15)
        panel.axhline(0, color="grey", linestyle="--")
        panel.set(xlabel=axis, title=f"{title}, minus the plain decoder's")
        panel.grid(alpha=0.3)
    figure.axes[0].legend()
    figure.savefig(path, dpi=120)
