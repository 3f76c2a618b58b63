"""What a person sees: progress while a batch is at work, then a table; and the same for machines."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING

from flows.inbox import local_path
from flows.reconstruct import Event
from flows.submit import Report, one_line

if TYPE_CHECKING:
    from pydantic import JsonValue
    from rich.console import Console, RenderableType
    from rich.live import Live
    from rich.table import Table

    from flows.assets import AssetDocument, Row
    from flows.doctor import Finding

# Seconds an image on two cores, to begin with; the batch's own times replace them as soon as there are any.
EXPECTED_S = {
    "prepare": 1.0,
    "multiview": 4.0,
    "coarse_neus": 7.0,
    "decode": 2.0,
    "refit_neus": 10.0,
    "export_mesh": 7.0,
}
_UNKNOWN_S = 10.0
_SHOWN_SCORES = ("front_iou", "front_psnr_db", "watertight", "faces")


class Timing:
    """How long stages take: the mean of the times seen in this batch, and before there are any, what is usual."""

    def __init__(self, stages: Sequence[str]) -> None:
        """Nothing seen yet.

        Args:
            stages: Names of the stages, in order.
        """
        self._stages = tuple(stages)
        self._seen: dict[str, list[float]] = defaultdict(list)

    def saw(self, stage: str, seconds: float) -> None:
        """Take a stage's time into account."""
        self._seen[stage].append(seconds)

    def expected_s(self, stage: str) -> float:
        """Seconds that the stage will probably take."""
        seen = self._seen[stage]
        return sum(seen) / len(seen) if seen else EXPECTED_S.get(stage, _UNKNOWN_S)

    def left_s(self, stage: str | None, running_s: float = 0.0) -> float:
        """Seconds until an image is done that has been in `stage` for `running_s`; None is an image not yet begun."""
        ahead = self._stages if stage is None else self._stages[self._stages.index(stage) + 1 :]
        current = 0.0 if stage is None else max(self.expected_s(stage) - running_s, 0.0)
        return current + sum(self.expected_s(name) for name in ahead)


class Progress:
    """Listens to a batch and shows it on stderr: a live table on a terminal, otherwise one line an event."""

    def __init__(self, stages: Sequence[str], console: "Console") -> None:
        """Nothing shown yet.

        Args:
            stages: Names of the stages, in order.
            console: On stderr.
        """
        self._stages = tuple(stages)
        self._console = console
        self._timing = Timing(stages)
        self._cells: dict[str, dict[str, str]] = {}
        self._running: tuple[str, str, float] | None = None
        self._current = ""
        self._images = 0
        self._live: Live | None = None

    def __enter__(self) -> "Progress":
        """Start the live table where there is a terminal."""
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(get_renderable=self.table, console=self._console, refresh_per_second=4, transient=True)
            self._live.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Take the live table away."""
        if self._live is not None:
            self._live.stop()

    def expect(self, images: int) -> None:
        """Say how many images are still to be computed; those heard of so far were found done."""
        self._images = len(self._cells) + images

    def __call__(self, event: Event) -> None:
        """Take the event in and show it."""
        cells = self._cells.setdefault(event.image, {})
        self._current = event.image
        if event.phase == "start":
            self._running = (event.image, event.stage, time.monotonic())
        elif event.phase == "retry":
            cells[event.stage] = "[yellow]again[/]"
            self._line(f"{event.image}: {event.stage}: {event.detail}", always=True)
        else:
            self._running = None
            found = event.phase == "cached"
            cells[event.stage] = "[dim]found[/]" if found else f"[green]{event.seconds:.1f} s[/]"
            if not found:
                self._timing.saw(event.stage, event.seconds)
                self._line(f"{event.image}: {event.stage} {event.seconds:.1f} s")

    def left_s(self) -> float:
        """Seconds until the batch is done, as far as can be told."""
        waiting = max(self._images - len(self._cells), 0) * self._timing.left_s(None)
        return waiting + (self._left_of(self._current) if self._current else 0.0)

    def _left_of(self, image: str) -> float:
        if self._running is not None and self._running[0] == image:
            return self._timing.left_s(self._running[1], time.monotonic() - self._running[2])
        done = [stage for stage in self._stages if stage in self._cells[image]]
        return self._timing.left_s(done[-1] if done else None, float("inf") if done else 0.0)

    def _line(self, text: str, *, always: bool = False) -> None:
        if self._live is None or always:
            self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def table(self) -> "RenderableType":
        """The images with their stages as they are now."""
        from rich.spinner import Spinner
        from rich.table import Table

        table = Table(box=None, caption=f"about {duration(self.left_s())} left", caption_justify="left")
        for title in ("image", *self._stages):
            table.add_column(title, overflow="fold")
        for image, cells in list(self._cells.items())[-20:]:
            row: list[RenderableType] = [_plain(image)]
            for stage in self._stages:
                busy = self._running is not None and self._running[:2] == (image, stage)
                row.append(Spinner("dots", text=self._running_for()) if busy else cells.get(stage, ""))
            if image != self._current and len(cells) < len(self._stages):
                # The batch has gone on without it: the reason follows when the batch ends.
                row[1 + len(cells)] = "[red]stopped[/]"
            table.add_row(*row)
        return table

    def _running_for(self) -> str:
        return f"{time.monotonic() - self._running[2]:.0f} s" if self._running else ""


def duration(seconds: float) -> str:
    """Seconds for a person."""
    if seconds < 90:
        return f"{seconds:.0f} s"
    minutes = seconds / 60
    return f"{minutes:.0f} min" if minutes < 90 else f"{minutes / 60:.1f} h"


def print_report(report: Report, console: "Console") -> None:
    """The table at the end of a submit, and where things are."""
    console.print(rows_table([outcome.row() for outcome in report.outcomes]))
    counts = [f"{report.count(status)} {status}" for status in ("published", "refused", "failed") if report.count(status)]
    work = f"{report.stages(cached=False)} stages computed, {report.stages(cached=True)} found done"
    ignored = f"; {report.ignored} other files in the folders left alone" if report.ignored else ""
    console.print(f"{', '.join(counts)} in {duration(report.seconds)}: {work}{ignored}", markup=False, highlight=False)
    folder = local_path(report.assets_uri)
    place = f"{folder or report.assets_uri}/{report.request.name}"
    console.print(place, markup=False, highlight=False, soft_wrap=True)


def print_problems(report: Report) -> None:
    """One line on stderr for each image that is not published."""
    for outcome in report.outcomes:
        if outcome.error is not None:
            text = one_line(outcome.error)
            prefix = "" if outcome.item.file in text else f"{outcome.item.file}: "
            print(f"{outcome.status}: {prefix}{text}", file=sys.stderr)


def rows_table(rows: "Sequence[Row]") -> "Table":
    """The images of a batch as a table."""
    from rich.table import Table

    table = Table(box=None)
    known = {name for row in rows for name in row.scores}
    names = [name for name in _SHOWN_SCORES if name in known]
    for title in ("image", "status", *names):
        table.add_column(title, overflow="fold")
    table.add_column("time", justify="right")
    colours = {"published": "green", "refused": "yellow", "failed": "red"}
    for row in rows:
        scores = [_number(row.scores[name]) if name in row.scores else "" for name in names]
        status = f"[{colours.get(row.status, 'white')}]{row.status}[/]"
        table.add_row(_plain(row.name), status, *scores, "" if row.seconds is None else duration(row.seconds))
    return table


def batches_table(summaries: "Sequence[dict[str, JsonValue]]") -> "Table":
    """All batches, one a row."""
    return _grid(("batch", "published", "refused", "failed"), [[str(one[key]) for key in _BATCH_KEYS] for one in summaries])


def lineage_table(document: "AssetDocument", preview: str | None) -> "RenderableType":
    """An asset's stages, scores and files."""
    from rich.console import Group
    from rich.text import Text

    stages = [
        [one.name, one.version, one.key[:12], f"{one.seconds:.1f} s", ", ".join(one.weights), "; ".join(one.retries)]
        for one in document.stages
    ]
    scores = [[name, _number(value)] for name, value in sorted(document.scores.items())]
    files = [[name, f"{blob.size_bytes / 1e3:.0f} kB", blob.sha256[:12]] for name, blob in sorted(document.files.items())]
    source = f"{document.input_file}, sha256 {document.input.sha256[:12]}, cut out by {document.matting}"
    made = f"img2mesh {document.tool_version}, preset {document.preset}, seed {document.seed}, AI-generated"
    return Group(
        Text(f"{document.batch}/{document.name}\nfrom {source} (confidence {document.matting_confidence:.2f})\nby {made}"),
        _grid(("stage", "version", "key", "time", "weights", "tried again"), stages),
        _grid(("score", "value"), scores),
        _grid(("file", "size", "sha256"), files),
        Text(f"preview: {preview or 'none'}"),
    )


def presets_table(rows: "Sequence[dict[str, str]]") -> "Table":
    """The presets, one a row."""
    return _grid(("preset", "usable", "summary"), [[row["name"], row["usable"], row["summary"]] for row in rows])


def findings_table(findings: "Sequence[Finding]") -> "Table":
    """What the doctor found."""
    return _grid(("", "what", "found"), [["ok" if one.ok else "NO", one.what, one.found] for one in findings])


_BATCH_KEYS = ("name", "published", "refused", "failed")


def _number(value: float) -> str:
    return f"{value:.0f}" if value.is_integer() else f"{value:.3f}"


def _grid(titles: Sequence[str], rows: Sequence[Sequence[str]]) -> "Table":
    from rich.table import Table

    table = Table(box=None)
    for title in titles:
        table.add_column(title, overflow="fold")
    for row in rows:
        table.add_row(*(_plain(cell) for cell in row))
    return table


def _plain(text: str) -> "RenderableType":
    from rich.text import Text

    return Text(text)
