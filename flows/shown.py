"""What the Prefect UI shows of a batch: progress while it runs, then a table of its images and a report with previews.

Showing is never worth a batch: where the server refuses or is gone, a line in the log says so and the work goes on.
"""

import contextlib
import re
import time
from collections.abc import Iterator, Sequence
from typing import Any

from flows.assets import Assets, Row

LINKS_LAST_S = 7 * 24 * 3600
# Each update is a connection of its own to the server: too dear for every image.
_UPDATE_S = 10.0
_MOST_ROWS = 1000
_MOST_PREVIEWS = 50
_SCORES = ("front_iou", "front_psnr_db", "watertight", "faces")


class Progress:
    """The share of a batch's images that are done, as an artifact of the flow run around it."""

    def __init__(self, batch: str, images: int) -> None:
        """Show a batch of which nothing is done.

        Args:
            batch: Its name.
            images: How many images it will compute.
        """
        self._images = images
        self._artifact: Any = None
        self._shown_s = time.monotonic()
        with _going_on():
            from prefect.artifacts import create_progress_artifact

            self._artifact = create_progress_artifact(
                0.0, key=artifact_key("progress", batch), description=f"{images} images to compute"
            )

    def done(self, images: int) -> None:
        """Show that so many images are done; now and then, and at the end."""
        now_s = time.monotonic()
        if self._artifact is None or (images < self._images and now_s - self._shown_s < _UPDATE_S):
            return
        self._shown_s = now_s
        with _going_on():
            from prefect.artifacts import update_progress_artifact

            update_progress_artifact(
                self._artifact, 100.0 * images / self._images, description=f"{images} of {self._images} images"
            )


def show(assets: Assets, batch: str, rows: Sequence[Row]) -> None:
    """Attach the table and the report to the flow run around this."""
    with _going_on():
        from prefect.artifacts import create_markdown_artifact, create_table_artifact

        create_table_artifact(table(assets, batch, rows), key=artifact_key("images", batch), description=summary(batch, rows))
        create_markdown_artifact(markdown(assets, batch, rows), key=artifact_key("report", batch))


def table(assets: Assets, batch: str, rows: Sequence[Row]) -> list[dict[str, Any]]:
    """One row an image: scores and a link to the mesh where there is one, otherwise the reason."""
    return [
        {
            "image": row.name,
            "status": row.status,
            "mesh": f"[mesh.glb]({_link(assets, batch, row, 'mesh.glb')})" if row.status == "published" else "",
            **{name: round(row.scores[name], 3) if name in row.scores else None for name in _SCORES},
            "seconds": row.seconds,
            "reason": row.reason or "",
        }
        for row in rows[:_MOST_ROWS]
    ]


def markdown(assets: Assets, batch: str, rows: Sequence[Row]) -> str:
    """The report: counts, what was refused or failed and why, and the previews of the first images."""
    lines = [f"# {_plain(batch)}", "", summary(batch, rows), ""]
    problems = [row for row in rows if row.status != "published"]
    if problems:
        lines += ["| image | status | reason |", "|---|---|---|"]
        lines += [f"| {_plain(row.name)} | {row.status} | {_plain(row.reason or '')} |" for row in problems[:_MOST_ROWS]]
        lines.append("")
    for row in [row for row in rows if row.status == "published"][:_MOST_PREVIEWS]:
        preview, mesh = (_link(assets, batch, row, file) for file in ("preview.png", "mesh.glb"))
        lines += [f"## {_plain(row.name)}", "", f"[![{_plain(row.name)}]({preview})]({mesh})", ""]
    return "\n".join(lines)


def summary(batch: str, rows: Sequence[Row]) -> str:
    """How many images ended how, in one line."""
    counts = {status: sum(row.status == status for row in rows) for status in ("published", "refused", "failed")}
    return f"{_plain(batch)}: {', '.join(f'{count} {status}' for status, count in counts.items() if count) or 'no images'}"


def artifact_key(kind: str, batch: str) -> str:
    """A name as Prefect wants it: lower-case letters, digits and dashes."""
    return f"{kind}-{re.sub('[^a-z0-9]+', '-', batch.lower()).strip('-') or 'batch'}"


def _link(assets: Assets, batch: str, row: Row, file: str) -> str:
    return assets.objects.link(f"{batch}/{row.name}/{file}", LINKS_LAST_S)


def _plain(text: str) -> str:
    """The text with nothing that Markdown or HTML would act on: names come from strangers' files."""
    return re.sub(r"([\\`*_\[\]<>|#!()])", r"\\\1", " ".join(text.split()))


@contextlib.contextmanager
def _going_on() -> Iterator[None]:
    import httpx
    from prefect.exceptions import PrefectException
    from prefect.logging import get_logger

    try:
        yield
    except (PrefectException, httpx.HTTPError) as error:
        get_logger("img2mesh").warning("an artifact could not be shown: %s", " ".join(str(error).split()))
