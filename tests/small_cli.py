"""The real command line over six small stages that need no models: for tests of everything around the stages.

Environment: SMALL_DELAY_S makes every stage take longer; SMALL_LOG names a file that gets a line for every stage that runs;
SMALL_PLAIN=1 runs the stages in a loop instead of Prefect's flows; SMALL_CLOCK_S sets the clock that much forward. A picture
whose name contains `numerical` fails in `coarse_neus` with seed 0; `transient` fails once in `multiview`; `bug` fails in
`decode`, for a reason that is none of ours.
"""

import io
import os
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from PIL import Image

from flows import launch, reconstruct, submit
from flows.inbox import Item
from flows.reconstruct import Step
from flows.submit import Job, Outcome
from img2mesh.errors import InputError, NumericalError, TransientError
from img2mesh.manifests import (
    AlignedViews,
    CameraSpec,
    CoarseGeometry,
    MeshAsset,
    Model,
    MultiviewLatents,
    PreparedImage,
    SourceImage,
    Surface,
    WeightsRef,
)
from img2mesh.stage import Stage
from img2mesh.stage import main as run_alone
from img2mesh.storage import Store

CAMERA = CameraSpec(
    name="front",
    projection="orthographic",
    world_from_camera=((1.0, 0.0, 0.0, 0.0), (0.0, -1.0, 0.0, 0.0), (0.0, 0.0, -1.0, 2.0), (0.0, 0.0, 0.0, 1.0)),
    focal_px=64.0,
    centre_px=(64.0, 64.0),
    width_px=128,
    height_px=128,
)
WEIGHTS = WeightsRef(name="small", sha256="0" * 64)


class Params(Model):
    """A seed and weights, as real stages have them."""

    seed: int = 0
    weights: WeightsRef = WEIGHTS


class PlainParams(Model):
    """No seed."""


def _begin(stage: str, image: str) -> None:
    if "SMALL_LOG" in os.environ:
        with Path(os.environ["SMALL_LOG"]).open("a") as log:
            log.write(f"{stage} {image}\n")
    time.sleep(float(os.environ.get("SMALL_DELAY_S", "0")))


def _made(store: Store, *parts: object) -> Any:
    return store.put_blob(repr(parts).encode() * 100, "application/octet-stream")


def prepare(inputs: SourceImage, params: PlainParams, store: Store) -> PreparedImage:
    """Read the picture, that is all."""
    _begin("prepare", inputs.name)
    try:
        with Image.open(io.BytesIO(store.get_blob(inputs.image))) as image:
            image.load()
    except (OSError, SyntaxError) as error:
        raise InputError(f"{inputs.name}: no readable picture; submit another") from error
    return PreparedImage(source=inputs, image=inputs.image, matting="alpha", matting_confidence=1.0)


def multiview(inputs: PreparedImage, params: Params, store: Store) -> MultiviewLatents:
    """Latents that are none; fails once for `transient`."""
    name = inputs.source.name
    _begin("multiview", name)
    if "transient" in name and store.create("tries/multiview", b""):
        raise TransientError("the network went away; try again")
    return MultiviewLatents(source=inputs, latents=_made(store, "latents", inputs.image.sha256, params.seed), cameras=(CAMERA,))


def coarse_neus(inputs: MultiviewLatents, params: Params, store: Store) -> CoarseGeometry:
    """Views and depth that are none; fails with seed 0 for `numerical`."""
    name = inputs.source.source.name
    _begin("coarse_neus", name)
    if "numerical" in name and params.seed == 0:
        raise NumericalError("the level set is empty")
    views = _made(store, "views", inputs.latents.sha256, params.seed)
    return CoarseGeometry(source=inputs, views=views, depth=_made(store, "depth", views.sha256))


def decode(inputs: CoarseGeometry, params: Params, store: Store) -> AlignedViews:
    """Views that are none; breaks for `bug`."""
    name = inputs.source.source.source.name
    _begin("decode", name)
    if "bug" in name:
        raise KeyError("nobody thought of this")
    return AlignedViews(source=inputs, views=_made(store, "aligned", inputs.views.sha256, params.seed))


def refit_neus(inputs: AlignedViews, params: Params, store: Store) -> Surface:
    """A field that is none."""
    _begin("refit_neus", inputs.source.source.source.source.name)
    return Surface(source=inputs, field=_made(store, "field", inputs.views.sha256, params.seed))


def export_mesh(inputs: Surface, params: PlainParams, store: Store) -> MeshAsset:
    """Files that are none; the preview is the picture itself."""
    prepared = inputs.source.source.source.source
    _begin("export_mesh", prepared.source.name)
    files = {"mesh.glb": _made(store, "glb", inputs.field.sha256), "mesh.obj": _made(store, "obj", inputs.field.sha256)}
    return MeshAsset(source=inputs, files={**files, "preview.png": prepared.image}, scores={"front_iou": 0.97, "faces": 12.0})


STEPS: tuple[Step, ...] = (
    (
        Stage(name="prepare", version=1, inputs=SourceImage, params=PlainParams, outputs=PreparedImage, run=prepare),
        PlainParams(),
    ),
    (
        Stage(name="multiview", version=1, inputs=PreparedImage, params=Params, outputs=MultiviewLatents, run=multiview),
        Params(),
    ),
    (
        Stage(name="coarse_neus", version=1, inputs=MultiviewLatents, params=Params, outputs=CoarseGeometry, run=coarse_neus),
        Params(),
    ),
    (Stage(name="decode", version=1, inputs=CoarseGeometry, params=Params, outputs=AlignedViews, run=decode), Params()),
    (Stage(name="refit_neus", version=1, inputs=AlignedViews, params=Params, outputs=Surface, run=refit_neus), Params()),
    (
        Stage(name="export_mesh", version=1, inputs=Surface, params=PlainParams, outputs=MeshAsset, run=export_mesh),
        PlainParams(),
    ),
)


def steps(*, seed: int) -> list[Step]:
    """The small stages with a seed."""
    return [(stage, params.model_copy(update={"seed": seed}) if hasattr(params, "seed") else params) for stage, params in STEPS]


def in_a_loop(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """Without Prefect: one image after the other, nothing tried again."""
    outcomes = []
    for item in items:
        try:
            walk = job.walk(item, lambda stage, inputs, params: stage.result(inputs, params, job.store))
            outcomes.append(job.publish(item, walk()))
        except Exception as error:  # noqa: BLE001 - as the flow does
            outcomes.append(job.failed(item, error))
    return outcomes


def in_small_subprocess(stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Any:
    """As `--launch subprocess` does, with the small stage of that name."""

    def command(folder: Path) -> list[str]:
        module, *arguments = launch._arguments(stage, store, folder, folder)
        return [sys.executable, __file__, "--stage", module.removeprefix("stages."), *arguments]

    return launch._alone(stage, inputs, params, store, command)


def main() -> None:
    """The command line with the small stages in place of the real ones."""
    if sys.argv[1:2] == ["--stage"]:
        name = sys.argv[2]
        del sys.argv[1:3]
        run_alone(next(stage for stage, _ in STEPS if stage.name == name))
        return
    from flows import cli

    if jump_s := float(os.environ.get("SMALL_CLOCK_S", "0")):
        right = time.time
        time.time = lambda: right() + jump_s
    reconstruct.stages_of = lambda preset, *, seed, formats: steps(seed=seed)
    launch.in_subprocess = in_small_subprocess
    if os.environ.get("SMALL_PLAIN"):
        whole = submit.submit
        submit.submit = lambda *args, **options: whole(*args, **options, run_pending=in_a_loop)
    cli.main()


if __name__ == "__main__":
    main()
