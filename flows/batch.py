"""Prefect's flows: `batch` maps `reconstruct` over the images, and each stage is one task.

Prefect schedules, retries and shows. It caches nothing and keeps no results: the store is the truth.
"""

import os
from collections.abc import Callable, Sequence
from typing import Any

from prefect import flow, task
from prefect.cache_policies import NO_CACHE
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows import submit as batches
from flows.inbox import Item
from flows.reconstruct import AnyStage, Event, RunStage, stages_of
from flows.submit import Job, Outcome, Request, ignore
from img2mesh.errors import TransientError
from img2mesh.manifests import Model
from img2mesh.stage import Result
from img2mesh.storage import is_full_disk

BACK_OFF_S = (1.0, 5.0, 20.0)


@flow(name="batch", persist_result=False)
def batch(
    paths: list[str],
    *,
    assets: str,
    store: str,
    name: str | None = None,
    preset: str = "compact",
    formats: list[str] | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """The report of a batch; this is what a deployment runs on a worker.

    Args:
        paths: Files, folders, `file:///...` or `s3://bucket/prefix`.
        assets: Where the assets go.
        store: Where blobs and manifests are.
        name: The batch's folder among the assets; by default that of the only folder submitted.
        preset: The preset's name.
        formats: Mesh formats.
        seed: Of everything that is random.

    Raises:
        Img2MeshError: Something other than a picture is at fault; refused pictures are in the report and no failure.
    """
    from img2mesh import presets

    chosen = formats or ["glb", "obj"]
    request = Request.of(paths, assets=assets, store=store, name=name, preset=preset, formats=chosen, seed=seed)
    pipeline = stages_of(presets.get(preset), seed=seed, formats=chosen)
    report = batches.submit(request, pipeline, listen=ignore, run_pending=run_each)
    for outcome in report.outcomes:
        if outcome.status == "failed" and outcome.error is not None:
            raise outcome.error
    return report.as_dict()


def run_as_flow(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """The outcomes of the images, computed in a run of the flow `batch` in this process."""
    body = flow(name="batch", flow_run_name=lambda: job.request.name, persist_result=False, validate_parameters=False)(
        lambda: run_each(job, items)
    )
    with temporary_settings({PREFECT_API_URL: os.environ.get("PREFECT_API_URL")}):
        return body()


def run_each(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """One run of the flow `reconstruct` after the other; models stay loaded from image to image."""
    return [_run_one(job, item) for item in items]


def _run_one(job: Job, item: Item) -> Outcome:
    def body() -> Outcome:
        return job.publish(item, job.walk(item, _task_runner(job, item))())

    try:
        return flow(name="reconstruct", flow_run_name=lambda: item.name, persist_result=False, validate_parameters=False)(
            body
        )()
    except Exception as error:  # noqa: BLE001 - one image that fails, for whatever reason, leaves the others their turn
        return job.failed(item, error)


def _task_runner(job: Job, item: Item) -> RunStage:
    """Runs a stage as a Prefect task that is tried again after a `TransientError`, and after no other."""

    def run(stage: AnyStage, inputs: Model, params: Model) -> Result[Any]:
        caught: list[Exception] = []

        def body() -> Result[Any]:
            try:
                return job.launch(stage, inputs, params, job.store)
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
