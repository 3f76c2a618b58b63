"""Prefect's flows: `batch` maps `reconstruct` over the images, and each stage is one task.

Prefect schedules, retries and shows. It caches nothing and keeps no results: the store is the truth.
"""

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import Any, Literal

import httpx
from prefect import flow, tags, task
from prefect.cache_policies import NO_CACHE
from prefect.client.schemas.objects import State
from prefect.context import TagsContext
from prefect.exceptions import PrefectHTTPStatusError
from prefect.runtime import flow_run
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.states import Failed

from flows import shown
from flows import submit as batches
from flows.assets import open_assets
from flows.claims import Claims
from flows.devices import on_a_device
from flows.embedded import is_healthy
from flows.heartbeats import heartbeats, instead_of_prefect_s
from flows.inbox import Item, quarantine_refused
from flows.launch import environment, in_process, launcher
from flows.memory import share_one_heap
from flows.options import all_formats, method_of, pipeline_of
from flows.reconstruct import AnyStage, Event, RunStage
from flows.submit import Job, Outcome, Request, ignore
from img2mesh.errors import Img2MeshError, InputError, TransientError
from img2mesh.manifests import Model
from img2mesh.stage import Result
from img2mesh.storage import is_full_disk, open_store
from stages import NAMES

BACK_OFF_S = (1.0, 5.0, 20.0)
# How long a server that has gone may take to come back before an image is given up.
SERVER_PATIENCE_S = 90.0
_CLAIM_POLL_S = 1.0


def _run_name() -> str:
    """The batch's name, for lists of runs."""
    parameters = flow_run.parameters or {}
    return str(parameters.get("name") or "batch")


@flow(name="batch", flow_run_name=_run_name, persist_result=False)
def batch(
    paths: list[str],
    *,
    assets: str,
    store: str,
    name: str | None = None,
    preset: str = "compact",
    formats: list[str] | None = None,
    faces: int | None = None,
    lods: list[int] | None = None,
    remesh: Literal["isotropic"] | None = None,
    seed: int = 0,
    neus: str = "native",
    quarantine: bool = False,
    launch: str | None = None,
) -> dict[str, Any]:
    """The report of a batch; this is what a deployment runs on a worker.

    Args:
        paths: Files, folders, `file:///...` or `s3://bucket/prefix`.
        assets: Where the assets go.
        store: Where blobs and manifests are.
        name: The batch's folder among the assets; by default that of the only folder submitted.
        preset: The preset's name.
        formats: Mesh formats; glb is always made.
        faces: Budget of triangles; by default the preset's.
        lods: Descending budgets for meshes of several levels of detail; the first is the mesh itself.
        remesh: Make triangles of even size and shape.
        seed: Of everything that is random.
        neus: What fits the surface: native, or nerfstudio.
        quarantine: Move refused pictures to `quarantine/` in their inbox, each with a file that gives the reason.
        launch: Where stages run, one of `flows.launch.HOW`; by default as IMG2MESH_LAUNCH says, or in the worker's process.

    Raises:
        Img2MeshError: Something other than a picture is at fault; refused pictures are in the report and no failure.
    """
    share_one_heap()
    request = Request.of(
        paths,
        assets=assets,
        store=store,
        name=name,
        preset=preset,
        formats=all_formats(formats or ["obj"]),
        faces=faces,
        lods=lods,
        remesh=remesh,
        seed=seed,
        neus=method_of(neus),
    )
    pipeline = pipeline_of(request)
    where = launcher(launch or os.environ.get("IMG2MESH_LAUNCH", "process"))
    done = batches.submit(request, pipeline, listen=ignore, launch=where, run_pending=run_each)
    shown.show(open_assets(request.assets), request.name, [outcome.row() for outcome in done.outcomes])
    if quarantine:
        refused = [(outcome.item, outcome.error) for outcome in done.outcomes if isinstance(outcome.error, InputError)]
        quarantine_refused(paths, [replace(item, refusal=error) for item, error in refused])
    for outcome in done.outcomes:
        if outcome.status == "failed" and outcome.error is not None:
            raise outcome.error
    return done.as_dict()


@flow(name="stage", persist_result=False)
def stage(name: str, inputs: dict[str, Any], params: dict[str, Any], store: str) -> State[Any] | None:
    """Run one stage; what it makes is in the store. A run that fails for a reason of ours is named after the error's class.

    Args:
        name: Of the stage.
        inputs: Its manifest.
        params: Its parameters.
        store: Where blobs and manifests are.
    """
    try:
        if name not in NAMES:
            raise InputError(f"{name!r} is no stage: expected one of {', '.join(NAMES)}")
        chosen: AnyStage = importlib.import_module(f"stages.{name}").STAGE
        given = chosen.inputs.model_validate_json(json.dumps(inputs)), chosen.params.model_validate_json(json.dumps(params))
        on_a_device(in_process)(chosen, *given, open_store(store))
    except Img2MeshError as error:
        return Failed(name=type(error).__name__, message=str(error))
    return None


@flow(name="report", persist_result=False)
def report(assets: str, name: str | None = None) -> dict[str, Any]:
    """How many images of a batch, or of all batches, are published, refused and failed; tables and previews go to the UI.

    Args:
        assets: Where the assets are.
        name: A batch; without it, all of them.

    Raises:
        InputError: There is no such batch.
    """
    published = open_assets(assets)
    names = published.batches() if name is None else [name]
    for one in names:
        document = published.batch(one)
        if document is None:
            raise InputError(f"no batch {one!r} in {published.uri}; `img2mesh status` lists what is there")
        shown.show(published, one, document.rows)
    return {"batches": [published.summary(one) for one in names]}


@flow(name="train", persist_result=False)
def train(what: Literal["vae", "regressor", "multiview", "decoder"], arguments: list[str]) -> None:
    """Train one of the networks in a process of its own, as `img2mesh train WHAT ARGUMENTS` does.

    Raises:
        RuntimeError: The training has failed; its last words are in the log.
    """
    command = [sys.executable, "-m", "flows.cli", "train", what, *arguments]
    ended = subprocess.run(command, env=environment(), check=False)
    if ended.returncode != 0:
        raise RuntimeError(f"training {what} ended with {ended.returncode}; see its messages above")


def run_as_flow(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """The outcomes of the images, computed in a run of the flow `batch` in this process."""
    outcomes: list[Outcome] = []

    def body() -> None:
        outcomes.extend(run_each(job, items))
        shown.show(job.assets, job.request.name, [outcome.row() for outcome in outcomes])

    named = flow(name="batch", flow_run_name=lambda: job.request.name, persist_result=False, validate_parameters=False)(body)
    with temporary_settings({PREFECT_API_URL: os.environ.get("PREFECT_API_URL")}):
        try:
            named()
        except Exception as error:
            # The images are done and the store knows it: a server that cannot be told is no reason to lose the report.
            if not (_is_server_s(error) and len(outcomes) == len(items)):
                raise
    return outcomes


def run_each(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """One run of the flow `reconstruct` after the other; models stay loaded from image to image.

    Images that another worker is at are left to the end, and then waited for.
    """
    progress = shown.Progress(job.request.name, len(items))
    done: dict[str, Outcome] = {}
    with tags("img2mesh", f"batch:{job.request.name}", f"preset:{job.request.preset}"), instead_of_prefect_s() as every_s:
        for outcome in _in_turn(job, items, every_s):
            done[outcome.item.name] = outcome
            progress.done(len(done))
    return [done[item.name] for item in items]


def _in_turn(job: Job, items: Sequence[Item], heartbeat_s: float | None) -> Iterator[Outcome]:
    claims, waiting = Claims(job.store), list(items)
    while waiting:
        left: list[Item] = []
        for item in waiting:
            with claims.claim(job.work_name(item)) as ours:
                if ours:
                    yield _run_one(job, item, heartbeat_s)
                else:
                    left.append(item)
        if len(left) == len(waiting):
            time.sleep(_CLAIM_POLL_S)
        waiting = left


def _run_one(job: Job, item: Item, heartbeat_s: float | None) -> Outcome:
    outcomes: list[Outcome] = []

    def body() -> None:
        # A task with tags asks the server whether one of them is limited; the tags of its flow run are enough to find it.
        with heartbeats(heartbeat_s), TagsContext(current_tags=set()):
            # Of what a flow returns, the run that called it remembers the states to its own end: this one returns nothing.
            outcomes.append(job.publish(item, job.walk(item, _task_runner(job, item))()))

    called = flow(name="reconstruct", flow_run_name=lambda: item.name, persist_result=False, validate_parameters=False)(body)
    deadline = time.monotonic() + SERVER_PATIENCE_S
    while True:
        try:
            called()
            return outcomes[-1]
        except Exception as error:  # noqa: BLE001 - one image that fails, for whatever reason, leaves the others their turn
            if not _is_server_s(error):
                return job.failed(item, error)
            # What the image has got so far is in the store: once the server is back, its run starts over and finds it.
            if not _comes_back(deadline):
                gone = TransientError("the Prefect server does not answer; finished stages are kept, submit again")
                return job.failed(item, gone)


def _is_server_s(error: Exception) -> bool:
    """Whether it is Prefect's server that failed, not the work."""
    if isinstance(error, PrefectHTTPStatusError):
        return error.response.status_code >= 500
    return isinstance(error, httpx.TransportError)


def _comes_back(deadline: float) -> bool:
    while time.monotonic() < deadline:
        if is_healthy(os.environ.get("PREFECT_API_URL", "")):
            return True
        time.sleep(0.5)
    return False


def _task_runner(job: Job, item: Item) -> RunStage:
    """Runs a stage as a Prefect task that is tried again after a `TransientError`, and after no other."""
    launch = on_a_device(job.launch)

    def run(stage: AnyStage, inputs: Model, params: Model) -> Result[Any]:
        caught: list[Exception] = []

        def body() -> Result[Any]:
            try:
                return launch(stage, inputs, params, job.store)
            except Exception as error:
                caught.append(batches.as_ours(error))
                if caught[-1] is error:
                    raise
                raise caught[-1] from error

        def again(*_: object) -> bool:
            passing = bool(caught) and _passes(caught[-1])
            if passing:
                job.listen(Event(image=item.name, stage=stage.name, phase="retry", detail=str(caught[-1])))
            return passing

        return _as_task(body, stage.name, again)()

    return run


def _as_task(body: Callable[[], Result[Any]], name: str, again: Callable[..., bool]) -> Callable[[], Result[Any]]:
    made: Callable[[], Result[Any]] = task(
        name=name,
        task_run_name=name,
        cache_policy=NO_CACHE,
        persist_result=False,
        retries=len(BACK_OFF_S),
        retry_delay_seconds=list(BACK_OFF_S),
        retry_condition_fn=again,
    )(body)
    return made


def _passes(error: Exception) -> bool:
    return isinstance(error, TransientError) and not is_full_disk(error)
