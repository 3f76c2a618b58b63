"""`img2mesh eval views`: the unseen views generated from one, against baselines."""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.evaluate.options import (
    CountOption,
    JsonOption,
    OutOption,
    PresetOption,
    SeedOption,
    SplitOption,
    StoreOption,
    ViewsArgument,
)
from flows.evaluate.reporting import LPIPS_MISSING, check_some, finish, open_workbench, results_of, tell
from img2mesh.errors import InputError, NumericalError

if TYPE_CHECKING:
    from torch import Tensor

    from flows.evaluate.reporting import Rows
    from flows.workbench import Workbench
    from img2mesh.data.dataset import Sample
    from img2mesh.evaluation.views import Pictures


def views(
    views: ViewsArgument,
    *,
    split: SplitOption = "val",
    preset: PresetOption = "compact",
    count: CountOption = None,
    guided: Annotated[bool, typer.Option(help="Also the depth-guided decode, after the coarse fit it needs.")] = False,
    sheet: Annotated[int, typer.Option(min=0, help="Objects on the sheet of pictures.")] = 12,
    out: OutOption = Path("results"),
    store: StoreOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Score the five unseen views generated from one, against the copied front, the nearest training object and the mean.

    The nearest object and the mean picture come from the train split of VIEWS. The front is the first rendered one, given to
    the generator as it is framed.
    """
    from flows.workbench import evenly, samples
    from img2mesh.evaluation.report import Comparison
    from img2mesh.evaluation.views import picture_scores
    from img2mesh.metrics.lpips import load_lpips
    from img2mesh.training.sheets import write_sheet

    bench, lpips = open_workbench(preset, store, seed), load_lpips()
    rows: Rows = {}
    done: list[str] = []
    failed: list[str] = []
    data, chosen = samples(views, split, count=count, size_px=bench.preset.view_size_px)
    baselines = _baselines(views) | _guesses(bench)
    shown = {item for _, item in evenly(chosen, min(sheet, len(chosen)))} if sheet else set()
    pictures: list[list[Tensor]] = []
    for number, (name, item) in enumerate(chosen, start=1):
        sample = data.load(item)
        try:
            methods = _generated(bench, sample, name, guided=guided)
        except NumericalError as error:
            failed.append(f"{name} is left out: {error}.")
            continue
        done.append(name)
        pictures += [list(p) for p in (sample.rgb, *(m.rgb for m in methods.values()))] if item in shown else []
        for method, result in {**methods, **{key: make(sample) for key, make in baselines.items()}}.items():
            rows.setdefault(method, []).append(picture_scores(result, sample, lpips))
        tell(number, len(chosen), name)
    notes = ["Whole image on white, mean of the five views that are not the front, then over objects."]
    notes += [] if lpips else [LPIPS_MISSING]
    notes += [] if "mean picture" in baselines else [f"{views} has no training objects: the baselines from them are left out."]
    check_some(done, failed)
    comparison = Comparison(title="Views from one", objects=done, rows=rows, reference=next(iter(rows)))
    results = results_of("views", "Views from one image", bench, split, [*notes, *failed], [comparison])
    if pictures:
        out.mkdir(parents=True, exist_ok=True)
        write_sheet(out / "views.png", pictures)
    finish(results, out, "views", as_json=as_json)


def _generated(bench: "Workbench", sample: "Sample", name: str, *, guided: bool) -> "dict[str, Pictures]":
    latents = bench.latents(sample.picture(), name)
    if not guided:
        return {"generated": bench.plain_pictures(latents)}
    coarse = bench.coarse(latents)
    aligned = bench.pictures(bench.decode(coarse))
    return {"generated, guided decode": aligned, "generated, plain decode": bench.pictures(coarse)}


def _guesses(bench: "Workbench") -> "dict[str, Callable[[Sample], Pictures]]":
    """The first guess that the generator starts from, if it has one: a plain regressor."""
    from img2mesh.evaluation.views import first_guess
    from img2mesh.models.multiview import load

    guess = load(bench.preset.generator.name, bench.preset.generator.sha256).guess
    return {} if guess is None else {"first guess": lambda sample: first_guess(sample, guess)}


def _baselines(views: Path) -> "dict[str, Callable[[Sample], Pictures]]":
    from img2mesh.data.dataset import RenderedObjects
    from img2mesh.evaluation.views import TrainingObjects, copied_front, inflated_front

    alone: dict[str, Callable[[Sample], Pictures]] = {"front copied": copied_front, "front inflated": inflated_front}
    try:
        known = TrainingObjects(RenderedObjects(views, "train"))
    except InputError:
        return alone
    mean = known.mean()
    return {**alone, "nearest training object": known.nearest, "mean picture": lambda _: mean}
