"""Results as people read them (markdown) and as programs do (JSON)."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from img2mesh.metrics.statistics import Estimate, estimates, paired

# Digits after the point by the beginning of a column's name; three otherwise.
_DIGITS = {"psnr": 2, "front_psnr": 2, "sift": 1, "xfeat": 1, "chamfer": 4, "reprojection": 4, "front_reprojection": 4}


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """Several methods on the same objects.

    Attributes:
        title: Heading of the table.
        objects: Their ids, in the order of the rows.
        rows: Per method, one dictionary of scores an object.
        reference: The method that the others are held against: differences are reference minus other.
    """

    title: str
    objects: Sequence[str]
    rows: dict[str, list[dict[str, float]]]
    reference: str

    def markdown(self) -> str:
        """Means with their intervals, and the differences of the reference to every other method."""
        columns = list(dict.fromkeys(name for rows in self.rows.values() for name in rows[0]))
        means = {name: estimates(rows) for name, rows in self.rows.items()}
        gains = {
            f"{self.reference} - {name}": paired(self.rows[self.reference], rows)
            for name, rows in self.rows.items()
            if name != self.reference
        }
        parts = [f"## {self.title}", f"{len(self.objects)} objects, mean [95% interval]:", _table("method", columns, means)]
        if gains:
            parts += ["Differences on the same objects:", _table("difference", columns, gains)]
        return "\n\n".join(parts)

    def as_dict(self) -> dict[str, Any]:
        """The scores of every object, and their means."""
        return {
            "title": self.title,
            "reference": self.reference,
            "objects": list(self.objects),
            "scores": self.rows,
            "means": {name: plain(estimates(rows)) for name, rows in self.rows.items()},
            "differences": {
                name: plain(paired(self.rows[self.reference], rows))
                for name, rows in self.rows.items()
                if name != self.reference
            },
        }


@dataclass(frozen=True, kw_only=True)
class Results:
    """One command's comparisons with what they were made from.

    Attributes:
        settings: What decides the numbers: split, preset, digests of weights, seed.
        notes: What a reader must know, a sentence each.
    """

    kind: str
    title: str
    settings: dict[str, Any]
    notes: Sequence[str] = ()
    comparisons: Sequence[Comparison] = field(default_factory=tuple)

    def markdown(self) -> str:
        """The whole page."""
        settings = "\n".join(f"- {key}: {value}" for key, value in self.settings.items())
        notes = "\n".join(f"- {note}" for note in self.notes)
        return "\n\n".join(filter(None, [f"# {self.title}", settings, notes, *(c.markdown() for c in self.comparisons)])) + "\n"

    def as_dict(self) -> dict[str, Any]:
        """The document."""
        return {
            "kind": self.kind,
            "settings": self.settings,
            "notes": list(self.notes),
            "comparisons": [c.as_dict() for c in self.comparisons],
        }

    def write(self, folder: Path, name: str) -> Path:
        """Write `<name>.md` and `<name>.json`.

        Returns:
            The markdown file.
        """
        folder.mkdir(parents=True, exist_ok=True)
        text = json.dumps(self.as_dict(), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
        (folder / f"{name}.json").write_text(text, encoding="utf-8")
        page = folder / f"{name}.md"
        page.write_text(self.markdown(), encoding="utf-8")
        return page


def _table(first: str, columns: Sequence[str], values: dict[str, dict[str, Estimate]]) -> str:
    rows = [[name, *(interval(v[c], _digits(c)) if c in v else "" for c in columns)] for name, v in values.items()]
    return table([first, *columns], rows)


def _digits(column: str) -> int:
    return next((digits for start, digits in _DIGITS.items() if column.startswith(start)), 3)


def interval(value: Estimate, digits: int) -> str:
    """A mean with its interval, as `0.512 [0.487, 0.536]`; of one object the value alone."""
    if value.count == 1:
        return f"{value.mean:.{digits}f}"
    return f"{value.mean:.{digits}f} [{value.low:.{digits}f}, {value.high:.{digits}f}]"


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A markdown table with columns of even width."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [header, ["-" * width for width in widths], *rows]
    return "\n".join("| " + " | ".join(cell.ljust(w) for cell, w in zip(line, widths, strict=True)) + " |" for line in lines)


def plain(columns: dict[str, Estimate]) -> dict[str, dict[str, float]]:
    """Estimates as a JSON document has them."""
    return {name: {"mean": v.mean, "low": v.low, "high": v.high, "count": v.count} for name, v in columns.items()}
