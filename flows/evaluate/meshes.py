"""`img2mesh eval meshes`: meshes from one picture against the objects."""

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
    one_of,
)
from flows.evaluate.reporting import check_some, finish, open_workbench, results_of, tell
from img2mesh.errors import NumericalError

if TYPE_CHECKING:
    import numpy as np
    from torch import Tensor

    from flows.evaluate.reporting import Rows
    from flows.workbench import Workbench
    from img2mesh.data.objects import ObjectEntry, TexturedObject
    from img2mesh.evaluation.report import Results
    from img2mesh.manifests import CoarseGeometry
    from img2mesh.metrics.visible import Triangles

# The light and the direction of a front are those of the first rendered one; a mesh is pictured from a little to the right.
FRONT_AZIMUTH_DEG = 20.0
PICTURE_PX = 512


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

    [wanted] = one_of("--protocol", protocol, tuple(PROTOCOLS))
    bench = open_workbench(preset, store, seed)
    rows: Rows = {}
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
        tell(number, len(chosen), f"{entry.id} {rows['pipeline'][-1]}")
    check_some(done, failed)
    finish(_mesh_results(bench, split, rows, (done, failed), protocol=wanted), out, "meshes", as_json=as_json)


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
    return results_of("meshes", "Meshes from one image", bench, split, notes, [comparison])
