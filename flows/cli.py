"""The command line. Whatever is slow to import is imported by the command that needs it."""

import contextlib
import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from flows.evaluate import app as evaluation
from flows.options import mesh_options, method_of, pipeline_of, split_formats, split_lods
from img2mesh.errors import Img2MeshError, InputError
from img2mesh.storage import file_error

if TYPE_CHECKING:
    from rich.console import Console

    from flows.submit import Report, Request
    from img2mesh.neus.config import Method

_INTERRUPTED = 130


class Remesh(StrEnum):
    """Ways to make triangles even."""

    ISOTROPIC = "isotropic"


class _LazyGroup(TyperGroup):
    """Imports the training commands, and torch with them, only for `train` itself."""

    def get_command(self, ctx: Any, cmd_name: str) -> Any:
        """The command; `train` is read from its module now."""
        if cmd_name == "train" and "train" in sys.argv[1:2]:
            from flows.train import app as training

            command = typer.main.get_command(training)
            command.name = "train"
            return command
        return super().get_command(ctx, cmd_name)


app = typer.Typer(
    name="img2mesh",
    help="A folder of pictures becomes textured meshes.",
    cls=_LazyGroup,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
data = typer.Typer(help="Make training data.", no_args_is_help=True)
app.add_typer(data, name="data")
models = typer.Typer(help="Fetch published checkpoints.", no_args_is_help=True)
app.add_typer(models, name="models")
app.add_typer(evaluation, name="eval")

AssetsOption = Annotated[str, typer.Option("--assets", metavar="URI", help="Where the assets are: a folder, file:// or s3://.")]
StoreOption = Annotated[
    str | None,
    typer.Option("--store", metavar="URI", help="Where blobs and manifests are.", show_default="ASSETS/.store"),
]
PresetOption = Annotated[str, typer.Option("--preset", help="compact, tiny or wonder3d; see `img2mesh presets`.")]
NeusOption = Annotated[
    str, typer.Option("--neus", help="What fits the surface: native, or nerfstudio (NeuS-facto; nerfstudio-neus for its NeuS).")
]
FormatsOption = Annotated[
    str, typer.Option("--formats", metavar="LIST", help="Mesh formats, comma-separated; glb is always made.")
]
SeedOption = Annotated[int, typer.Option("--seed", min=0, help="Of everything that is random.")]
FacesOption = Annotated[
    int | None, typer.Option("--faces", min=100, max=2_000_000, help="Budget of triangles.", show_default="the preset's")
]
LodsOption = Annotated[
    str | None,
    typer.Option(
        "--lods", metavar="LIST", help="Descending budgets, as 20000,5000,1000: mesh.*, mesh_lod1.*, mesh_lod2.*, ..."
    ),
]
RemeshOption = Annotated[
    Remesh | None, typer.Option("--remesh", help="Triangles of even size and shape; needs pymeshlab.", show_default="no")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print one JSON document on stdout, and nothing else there.")]


def main() -> None:
    """Run the command line; a user's mistake is one line on stderr and an exit code, never a traceback."""
    try:
        app()
    except Img2MeshError as error:
        _end(" ".join(str(error).split()), error.exit_code)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
        sys.exit(1)
    except OSError as error:
        ours = file_error(error, f"use {error.filename}" if error.filename else "go on")
        _end(str(ours), ours.exit_code)


def _end(message: str, code: int) -> NoReturn:
    print(f"img2mesh: {message}", file=sys.stderr)
    sys.exit(code)


def _version(wanted: bool) -> None:
    if wanted:
        import img2mesh

        print(f"img2mesh {img2mesh.__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print the version.")] = False,
) -> None:
    """A folder of pictures becomes textured meshes."""


@app.command()
def submit(
    paths: Annotated[
        list[str],
        typer.Argument(metavar="PATHS", help="Pictures, folders (searched with their sub-folders) or s3://bucket/prefix."),
    ],
    *,
    preset: PresetOption = "compact",
    assets: AssetsOption = "assets",
    store: StoreOption = None,
    name: Annotated[str | None, typer.Option(help="The batch's folder among the assets.", show_default="the folder's")] = None,
    formats: FormatsOption = "glb,obj",
    faces: FacesOption = None,
    lods: LodsOption = None,
    remesh: RemeshOption = None,
    seed: SeedOption = 0,
    neus: NeusOption = "native",
    launch: Annotated[
        str,
        typer.Option(
            "--launch",
            envvar="IMG2MESH_LAUNCH",
            help="Where stages run: process, subprocess (less memory), podman, docker, pool.",
        ),
    ] = "process",
    as_json: JsonOption = False,
) -> None:
    """Turn pictures into textured meshes.

    What is done already is not done again. Exits with 0 if all is published, 2 if pictures were refused, 3 for damaged data, 4
    if no surface was found, 75 for something that may pass, 1 for a bug. A file whose name begins with a dash: ./-name.png
    """
    from flows.submit import Request

    request = Request.of(
        paths,
        assets=assets,
        store=store,
        name=name,
        preset=preset,
        formats=split_formats(formats),
        seed=seed,
        # Elsewhere, what a stage needs is not to be found here.
        neus=_installed(neus) if launch in ("process", "subprocess") else method_of(neus),
        faces=faces,
        lods=split_lods(lods),
        remesh=remesh and remesh.value,
    )
    # Whoever ends a service or a session sends this one.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with _quiet_stdout():
            report = _run(request, launch=launch)
    except Img2MeshError as error:
        if as_json:
            _print_json({"kind": "error/v1", "error": type(error).__name__, "reason": str(error), "exit_code": error.exit_code})
        raise
    except KeyboardInterrupt:
        _end("interrupted; finished stages are kept, submit again to go on", _INTERRUPTED)
    from flows.report import print_problems, print_report

    if as_json:
        _print_json(report.as_dict())
    else:
        print_report(report, _console())
    print_problems(report)
    raise typer.Exit(report.exit_code)


def _run(request: "Request", *, launch: str) -> "Report":
    from flows.launch import launcher
    from flows.report import Progress
    from flows.submit import submit as run_batch

    pipeline = pipeline_of(request)
    with Progress([stage.name for stage, _ in pipeline], _console(stderr=True)) as progress:
        return run_batch(request, pipeline, listen=progress, expect=progress.expect, launch=launcher(launch))


@app.command()
def reconstruct(
    views: Annotated[
        Path, typer.Argument(metavar="VIEWS", help="A folder of RGBA pictures with cameras.json or transforms.json.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the mesh files, the preview and the report.")],
    formats: FormatsOption = "glb,obj",
    faces: FacesOption = None,
    lods: LodsOption = None,
    remesh: RemeshOption = None,
    texture_px: Annotated[int, typer.Option("--texture", min=64, max=8192, help="Side of the texture, pixels.")] = 1024,
    seed: SeedOption = 0,
    neus: NeusOption = "native",
    as_json: JsonOption = False,
) -> None:
    """Turn 3 to 64 posed pictures of one object into a textured mesh, at their own scale and place."""
    from flows.views import reconstruct as run
    from flows.views import write
    from img2mesh.mesh.config import ExportConfig

    console = _console(stderr=True)
    config = ExportConfig(texture_px=texture_px, **mesh_options(faces, split_lods(lods), remesh and remesh.value))
    done = run(
        views,
        formats=split_formats(formats),
        config=config,
        seed=seed,
        tell=console.print,
        method=_installed(neus),
        keep=out / ".fit.safetensors",
    )
    write(done.files, out)
    if as_json:
        _print_json(json.loads(done.files["report.json"]))
    else:
        _console().print(f"{out / 'mesh.glb'}: " + ", ".join(f"{name} {value:g}" for name, value in done.scores.items()))


def _installed(neus: str) -> "Method":
    """What fits the surface; InputError where that is not installed."""
    method = method_of(neus)
    if method != "native":
        from img2mesh.neus.environment import interpreter

        interpreter()
    return method


@app.command()
def status(
    name: Annotated[str | None, typer.Argument(help="A batch; without it, all of them.")] = None,
    assets: AssetsOption = "assets",
    as_json: JsonOption = False,
) -> None:
    """List the batches, or the images of one."""
    from flows.assets import open_assets
    from flows.report import batches_table, rows_table

    published = open_assets(assets)
    if name is not None:
        document = published.batch(name)
        if document is None:
            raise InputError(f"no batch {name!r} in {published.uri}; `img2mesh status` lists what is there")
        _show(document.model_dump(mode="json"), lambda: rows_table(document.rows), as_json)
        return
    reports = [published.summary(batch) for batch in published.batches()]
    if not reports and not as_json:
        raise InputError(f"no batch in {published.uri} yet; make one with `img2mesh submit PATHS`, or name another --assets")
    _show({"assets": published.uri, "batches": reports}, lambda: batches_table(reports), as_json)


@app.command()
def show(
    asset: Annotated[str, typer.Argument(metavar="BATCH/NAME", help="An asset; its name alone will do if no other has it.")],
    assets: AssetsOption = "assets",
    as_json: JsonOption = False,
) -> None:
    """Show where an asset comes from, its scores and its preview."""
    from flows.assets import open_assets, preview_path
    from flows.report import lineage_table

    published = open_assets(assets)
    document = published.document(*published.find(asset))
    preview = preview_path(published, document)
    _show({**document.model_dump(mode="json"), "preview": preview}, lambda: lineage_table(document, preview), as_json)


@app.command()
def verify(
    name: Annotated[str | None, typer.Argument(help="A batch; without it, all of them.")] = None,
    assets: AssetsOption = "assets",
    store: StoreOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read and re-hash every published file, manifest and blob; exits with 3 if one is missing or rotten.

    Without a batch, everything in the store is looked at, also what no batch has used. The next submit of the same pictures
    repairs what is found.
    """
    from flows.assets import open_assets
    from flows.submit import default_store
    from flows.verify import damages
    from img2mesh.errors import ArtifactError
    from img2mesh.storage import open_store

    published = open_assets(assets)
    batches = published.batches()
    if name is not None and name not in batches:
        raise InputError(f"no batch {name!r} in {published.uri}; `img2mesh status` lists what is there")
    place = open_store(store or default_store(assets))
    found = list(damages(published, place, batches if name is None else [name], all_stored=name is None))
    if as_json:
        _print_json({"assets": published.uri, "damages": found})
    for line in found:
        print(line, file=sys.stderr)
    if found:
        raise ArtifactError(f"{len(found)} damaged or missing; submit the same pictures again to repair them")
    if not as_json:
        print(f"{sum(len(published.names(batch)) for batch in batches if name in (None, batch))} assets, all whole")


@app.command()
def gc(
    assets: AssetsOption = "assets",
    store: StoreOption = None,
    *,
    older_hours: Annotated[float, typer.Option(min=2, help="Spare what is younger: a running batch may need it.")] = 24.0,
    delete: Annotated[bool, typer.Option("--delete", help="Remove it; without this, only say what would be removed.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Find the blobs that no manifest reaches, and with --delete remove them.

    Pictures that were refused, results that were computed twice, and what killed processes have left. No asset is touched.
    """
    from flows.gc import collect_garbage
    from flows.submit import default_store
    from img2mesh.storage import open_store

    place = open_store(store or default_store(assets))
    garbage = collect_garbage(place, older_s=older_hours * 3600, delete=delete)
    if as_json:
        _print_json({"store": place.uri, "deleted": delete, **garbage.as_dict()})
        return
    print(f"{garbage.describe()} in {place.uri} {'removed' if delete else 'would be removed; --delete removes them'}")


@app.command()
def presets(as_json: JsonOption = False) -> None:
    """List the presets."""
    from flows.report import presets_table
    from img2mesh import presets as known

    rows: list[dict[str, str]] = []
    for preset in known.NAMES:
        try:
            rows.append({"name": preset, "summary": known.get(preset).summary, "usable": "yes"})
        except Img2MeshError as error:
            rows.append({"name": preset, "summary": str(error), "usable": "no"})
    _show({"presets": rows}, lambda: presets_table(rows), as_json)


@app.command()
def doctor(
    assets: AssetsOption = "assets",
    store: StoreOption = None,
    measured: Annotated[bool, typer.Option("--measure", help="Run the full-size networks once, with random weights.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check packages, machine, weights, store and Prefect server; exits with 1 if something will not work."""
    from flows.doctor import examine, measure
    from flows.report import findings_table
    from flows.submit import default_store

    findings = [*examine(store or default_store(assets)), *(measure() if measured else ())]
    rows = [{"what": one.what, "found": one.found, "ok": one.ok} for one in findings]
    _show({"findings": rows}, lambda: findings_table(findings), as_json)
    if not all(one.ok for one in findings):
        raise typer.Exit(1)


@app.command()
def up(
    port: Annotated[int, typer.Option(min=1, max=65535, help="Of the server and its UI.")] = 4200,
    host: Annotated[
        str, typer.Option(help="Address to listen on; anything but 127.0.0.1 is open to the network.")
    ] = "127.0.0.1",
) -> None:
    """Start Prefect's server with its UI, and a worker, on this machine; Ctrl-C stops them."""
    from flows.serve import serve

    with contextlib.suppress(KeyboardInterrupt):
        serve(host=host, port=port, say=lambda text: print(text, flush=True))


@app.command()
def deploy(
    *,
    file: Annotated[Path | None, typer.Option(help="A service.toml: pool and batches; instead of all the others.")] = None,
    cron: Annotated[str | None, typer.Option(help="When: five fields, such as '0 * * * *'.")] = None,
    inbox: Annotated[
        str | None, typer.Option(metavar="URI", help="The folder or s3://bucket/prefix to reconstruct each time.")
    ] = None,
    assets: AssetsOption = "assets",
    store: StoreOption = None,
    preset: PresetOption = "compact",
    name: Annotated[str | None, typer.Option(help="The batch's folder among the assets.", show_default="the inbox's")] = None,
    formats: FormatsOption = "glb,obj",
    faces: FacesOption = None,
    lods: LodsOption = None,
    remesh: RemeshOption = None,
    seed: SeedOption = 0,
    neus: NeusOption = "native",
    launch: Annotated[
        str | None,
        typer.Option("--launch", help="Where stages run, as for submit.", show_default="the worker's IMG2MESH_LAUNCH"),
    ] = None,
    quarantine: Annotated[
        bool, typer.Option("--quarantine", help="Move refused pictures to quarantine/ in the inbox, with the reason.")
    ] = False,
) -> None:
    """Register scheduled batches on the Prefect server of PREFECT_API_URL: one, or those of a file."""
    from flows.deployments import Batch, Service, read_service
    from flows.deployments import deploy as register
    from flows.submit import Request

    if file is not None:
        service = read_service(file)
    elif cron is None or inbox is None:
        raise InputError("nothing to deploy: give --file service.toml, or --cron and --inbox")
    else:
        wanted = Request.of([inbox], assets=assets, store=store, name=name)
        one = Batch(
            name=wanted.name,
            inbox=inbox,
            assets=wanted.assets,
            store=wanted.store,
            cron=cron,
            preset=preset,
            formats=tuple(split_formats(formats)),
            faces=faces,
            lods=split_lods(lods),
            remesh=remesh and remesh.value,
            seed=seed,
            neus=neus,
            launch=launch,
            quarantine=quarantine,
        )
        service = Service(batches=(one,))
    for batch in service.batches:
        pipeline_of(batch.request())
    register(service)
    for batch in service.batches:
        print(f"batch/{batch.name}: {batch.inbox} at '{batch.cron}'; a worker of the pool {service.pool.name} runs it")


@data.command()
def render(
    objects: Annotated[Path, typer.Argument(metavar="OBJECTS", help="A folder with index.jsonl, or with .glb files.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the rendered views; what is there already is kept.")],
    split: Annotated[str | None, typer.Option(help="Only this split.")] = None,
    source: Annotated[str | None, typer.Option(help="Only sources whose name starts with this.")] = None,
    size_px: Annotated[int, typer.Option(min=8, help="Side of the square views.")] = 128,
    fronts: Annotated[int, typer.Option(min=1, help="Level fronts per object.")] = 1,
    raised: Annotated[int, typer.Option(min=0, help="More fronts per object, seen from above.")] = 0,
    seed: Annotated[int, typer.Option(min=0, help="Of the front azimuths and the lights.")] = 0,
    processes: Annotated[int, typer.Option(min=1, help="Processes to render with.")] = 1,
    limit: Annotated[int | None, typer.Option(min=1, help="At most this many objects.")] = None,
    png: Annotated[bool, typer.Option(help="Also write the views as PNG files.")] = False,
) -> None:
    """Render six orthographic views of every object: RGBA, normals, depth, masks and cameras."""
    from img2mesh.data.render import render_dataset

    count = render_dataset(
        objects,
        out,
        split=split,
        source=source,
        size_px=size_px,
        fronts=fronts,
        raised=raised,
        seed=seed,
        processes=processes,
        limit=limit,
        png=png,
    )
    print(f"{count} objects in {out}")


@data.command()
def invent(
    out: Annotated[Path, typer.Argument(metavar="OUT", help="Folder of the .glb files, for `img2mesh data gather`.")],
    *,
    count: Annotated[int, typer.Option(min=1, help="How many.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Of all that is drawn.")] = 0,
) -> None:
    """Draw household things at random: tables, chairs, cabinets, lamps, vessels, cars, animals; without colours."""
    from img2mesh.data.household import invent as invented

    print(f"{sum(1 for _ in invented(out, count, seed=seed))} things in {out}: img2mesh data gather gives them colours")


@data.command()
def gather(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of .glb and .gltf files, +y up.")],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the objects, for `img2mesh data render`.")],
    textures: Annotated[
        Path | None, typer.Option(metavar="OBJECTS", help="Objects whose textures some of those without colours get.")
    ] = None,
) -> None:
    """Take from a collection of meshes what is fit to train on; what has no colours gets some."""
    from img2mesh.data.gather import gather as gathered
    from img2mesh.data.gather import told

    print(f"{told(gathered(folder, out, textures=textures))}; the objects are in {out}")


@data.command()
def nerfstudio(
    views: Annotated[
        Path, typer.Argument(metavar="VIEWS", help="A folder of RGBA pictures with cameras.json or transforms.json.")
    ],
    *,
    out: Annotated[Path, typer.Option(help="Folder of the pictures and transforms.json.")],
) -> None:
    """Write posed pictures as nerfstudio reads them: cut out, the object in the cube [-1, 1]^3, +z up."""
    from dataclasses import replace

    from img2mesh.data.posed import read_posed
    from img2mesh.geometry.nerfstudio import write_nerfstudio
    from img2mesh.geometry.normalisation import around_object

    posed = read_posed(views)
    scene = around_object(posed.views.cameras, posed.views.alpha)
    inside = replace(posed.views, cameras=scene.to_cube(posed.views.cameras))
    write_nerfstudio(inside, [f"{number:02d}" for number in range(len(posed.names))], out, up=posed.up)
    print(f"{len(posed.names)} views in {out}; look at them with: ns-train nerfacto --data {out}")


@models.command()
def pull(
    family: Annotated[str, typer.Argument(metavar="FAMILY", help="wonder3d.")],
    *,
    accept: Annotated[bool, typer.Option("--accept-licence", help="Accept the licences that the command shows.")] = False,
    source: Annotated[
        str | None,
        typer.Option("--from", metavar="URI", help="A mirror: a folder or s3://bucket/prefix laid out as on the hub."),
    ] = None,
    target: Annotated[
        Path | None, typer.Option("--to", help="Folder for the weights.", show_default="IMG2MESH_WEIGHTS, or user data")
    ] = None,
    revision: Annotated[
        list[str] | None, typer.Option(metavar="REPO@COMMIT", help="Fetch this commit of one of the repositories; repeatable.")
    ] = None,
) -> None:
    """Fetch published weights for a preset and convert them; nothing is fetched before the licences are accepted."""
    from flows.models import pull as run

    def say(text: str) -> None:
        print(text, flush=True)

    run(family, source=source, target=target, accepted=accept, say=say, revisions=revision or ())


@app.command(add_help_option=False, context_settings={"allow_extra_args": True, "ignore_unknown_options": True}, name="train")
def _train() -> None:
    """Train the compact weights: vae, regressor, multiview or decoder."""


def _console(*, stderr: bool = False) -> "Console":
    from rich.console import Console

    return Console(stderr=stderr)


def _show(document: dict[str, Any], table: Callable[[], Any], as_json: bool) -> None:
    if as_json:
        _print_json(document)
    else:
        _console().print(table())


def _print_json(document: dict[str, Any]) -> None:
    json.dump(document, sys.stdout, ensure_ascii=False, allow_nan=False, indent=2)
    sys.stdout.write("\n")


@contextlib.contextmanager
def _quiet_stdout() -> Iterator[None]:
    """Send what libraries print, in Python or below it, to stderr: stdout is for the report."""
    sys.stdout.flush()
    kept = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        sys.stdout.flush()
        os.dup2(kept, 1)
        os.close(kept)


if __name__ == "__main__":
    main()
