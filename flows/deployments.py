"""The service as a document: work pool, scheduled batches and the automation that ends dead runs, registered in one go.

`infra/prefect/service.toml` is such a document. Registering it again changes what has changed and nothing else.
"""

import contextlib
import json
import os
import tomllib
from collections.abc import Iterator, Sequence
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, JsonValue, ValidationError

from flows.embedded import is_healthy, quiet_environment
from flows.inbox import absolute_uri
from flows.launch import STAGE_DEPLOYMENT
from flows.options import all_formats, method_of
from flows.submit import Request
from img2mesh.errors import InputError, TransientError
from img2mesh.manifests import Model
from img2mesh.storage import file_error

if TYPE_CHECKING:
    from prefect.automations import AutomationCore
    from prefect.deployments.runner import RunnerDeployment

POOL = "img2mesh"
TAG = "img2mesh"
# A run sends a heartbeat every 30 s (Prefect allows no less); one that misses two is dead. Workers are noticed after 30 s.
RUN_HEARTBEAT_S = 30
SILENCE_S = 60
WORKER_HEARTBEAT_S = 10
AUTOMATION = "img2mesh: runs that fall silent are crashed"
HEARTBEATS = {
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(RUN_HEARTBEAT_S),
    "PREFECT_WORKER_HEARTBEAT_SECONDS": str(WORKER_HEARTBEAT_S),
}
_LIVING = ("prefect.flow-run.heartbeat", "prefect.flow-run.Running")
_ENDED = tuple(f"prefect.flow-run.{name}" for name in ("Completed", "Failed", "Crashed", "Cancelled", "Cancelling"))


class Pool(Model):
    """The work pool: where runs are started, and how many at once.

    Args:
        name: Of the pool, and of the queue that workers poll.
        type: A worker's own machine, its containers, or a cluster.
        concurrency: Most runs at once over all workers; None is no limit.
        job_template: File of the base job template, relative to the document; None is Prefect's own.
        job_variables: For the template: image, volumes, GPUs...
    """

    name: str = POOL
    type: Literal["process", "docker", "kubernetes"] = "process"
    concurrency: Annotated[int, Field(ge=1)] | None = None
    job_template: str | None = None
    job_variables: dict[str, JsonValue] = Field(default_factory=dict)


class Batch(Model):
    """One scheduled batch, with the options of `img2mesh submit`. Runs of one batch never overlap: the next one waits."""

    name: str
    inbox: str
    assets: str
    store: str
    cron: str
    timezone: str = "UTC"
    preset: str = "compact"
    formats: tuple[str, ...] = ("glb", "obj")
    faces: int | None = None
    lods: tuple[int, ...] | None = None
    remesh: str | None = None
    seed: Annotated[int, Field(ge=0)] = 0
    neus: str = "native"
    quarantine: bool = False
    launch: str | None = None
    paused: bool = False
    tags: tuple[str, ...] = ()

    def request(self) -> Request:
        """What each of its runs asks for, in places that another process finds, too.

        Raises:
            InputError: An option makes no sense.
        """
        return Request.of(
            [absolute_uri(self.inbox)],
            assets=absolute_uri(self.assets),
            store=absolute_uri(self.store),
            name=self.name,
            preset=self.preset,
            formats=all_formats(self.formats),
            faces=self.faces,
            lods=self.lods,
            remesh=self.remesh,
            seed=self.seed,
            neus=method_of(self.neus),
        )

    def parameters(self) -> dict[str, JsonValue]:
        """Those of the flow `batch`."""
        return {**self.request().model_dump(mode="json"), "quarantine": self.quarantine, "launch": self.launch}


class Service(Model):
    """All that is registered on one Prefect server.

    Args:
        pool: Where batches run.
        stages: Where the stages of batches with `launch = "pool"` run; None is the same pool, which then needs room for both.
        batches: On schedules.
    """

    pool: Pool = Pool()
    stages: Pool | None = None
    batches: tuple[Batch, ...] = ()


def read_service(path: Path) -> Service:
    """The document, with places made absolute.

    Raises:
        InputError: The file cannot be read, or something in it is not as it should be.
    """
    try:
        service = Service.model_validate_json(json.dumps(tomllib.loads(path.read_text(encoding="utf-8")), default=str))
    except OSError as error:
        raise file_error(error, f"read {path}") from error
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path} is no TOML: {error}") from error
    except ValidationError as error:
        first = error.errors()[0]
        raise InputError(f"{path}: {'.'.join(str(part) for part in first['loc'])}: {first['msg'].lower()}") from error
    placed = {
        key: pool.model_copy(update={"job_template": str(path.parent / pool.job_template)})
        for key, pool in (("pool", service.pool), ("stages", service.stages))
        if pool and pool.job_template
    }
    return service.model_copy(update=placed)


def deploy(service: Service) -> list[str]:
    """Register everything on the server of `PREFECT_API_URL`; returns the full names of the deployments.

    Raises:
        InputError: No server is named, or a schedule is none.
        TransientError: The server does not answer.
    """
    quiet_environment()
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        raise InputError("no server to deploy to; run `img2mesh up`, then export PREFECT_API_URL as it says")
    if not is_healthy(url):
        raise TransientError(f"the Prefect server at {url} does not answer; check PREFECT_API_URL, start `img2mesh up`")
    return register(service)


def register(service: Service) -> list[str]:
    """Put pool, automation and deployments on the server of `PREFECT_API_URL`, which answers."""
    from prefect.exceptions import PrefectHTTPStatusError
    from prefect.settings import PREFECT_API_URL, temporary_settings

    pools = [service.pool, *([service.stages] if service.stages else [])]
    deployments = [*_standing(service), *(_scheduled(batch, service.pool) for batch in service.batches)]
    with temporary_settings({PREFECT_API_URL: os.environ["PREFECT_API_URL"]}):
        try:
            for pool in pools:
                _register_pool(pool)
            _register_automation()
            for deployment in deployments:
                deployment.apply()
        except PrefectHTTPStatusError as error:
            raise TransientError(f"the Prefect server refuses the deployment: {' '.join(str(error).split())}") from error
    return [f"{deployment.flow_name}/{deployment.name}" for deployment in deployments]


def _register_pool(pool: Pool) -> None:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.actions import WorkPoolCreate, WorkPoolUpdate
    from prefect.exceptions import ObjectAlreadyExists

    template = job_template(Path(pool.job_template)) if pool.job_template else {}
    with get_client(sync_client=True) as client:
        with contextlib.suppress(ObjectAlreadyExists):
            client.create_work_pool(WorkPoolCreate(name=pool.name, type=pool.type, base_job_template=template))
        there = client.read_work_pool(pool.name)
        if there.type != pool.type:
            raise InputError(f"the server has a work pool {pool.name!r} of the type {there.type}; choose another name")
        changed = WorkPoolUpdate(concurrency_limit=pool.concurrency, base_job_template=template or there.base_job_template)
        client.update_work_pool(pool.name, changed)


def job_template(path: Path) -> dict[str, Any]:
    """The base job template in the file.

    Raises:
        InputError: The file cannot be read, or is no such template.
    """
    try:
        template = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise file_error(error, f"read {path}") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}") from error
    if not isinstance(template, dict) or not {"variables", "job_configuration"} <= set(template):
        raise InputError(f"{path} is no job template: expected 'variables' and 'job_configuration'")
    return template


def _register_automation() -> None:
    from prefect.client.orchestration import get_client

    wanted = dead_runs()
    with get_client(sync_client=True) as client:
        there = client.read_automations_by_name(AUTOMATION)
        for spare in there[1:]:
            client.delete_automation(spare.id)
        if there:
            client.update_automation(there[0].id, wanted)
        else:
            client.create_automation(wanted)


def dead_runs() -> "AutomationCore":
    """The automation: a run that has lived and then neither ends nor sends a heartbeat for `SILENCE_S` is crashed."""
    from prefect.automations import AutomationCore, ChangeFlowRunState, EventTrigger, Posture
    from prefect.client.schemas.objects import StateType

    return AutomationCore(
        name=AUTOMATION,
        description="Its worker, its machine or its process has died. What it finished is in the store; run it again.",
        trigger=EventTrigger(
            match={"prefect.resource.id": "prefect.flow-run.*"},
            for_each={"prefect.resource.id"},
            posture=Posture.Proactive,
            after=set(_LIVING),
            expect={_LIVING[0], *_ENDED},
            threshold=1,
            within=timedelta(seconds=SILENCE_S),
        ),
        actions=[
            ChangeFlowRunState(
                name="Crashed",
                state=StateType.CRASHED,
                message=f"no heartbeat for {SILENCE_S} s: the worker or its machine has died",
                force=False,
            )
        ],
    )


def _standing(service: Service) -> Iterator["RunnerDeployment"]:
    """The deployments that wait to be called: any batch, a report, a training, a stage."""
    from flows.batch import batch, report, stage, train

    for called, name in ((batch, "submit"), (report, "report"), (train, "train")):
        yield _deployment(called, name, service.pool, tags=[TAG])
    flow_name, _, name = STAGE_DEPLOYMENT.partition("/")
    assert stage.name == flow_name
    yield _deployment(stage, name, service.stages or service.pool, tags=[TAG])


def _scheduled(wanted: Batch, pool: Pool) -> "RunnerDeployment":
    from prefect.schedules import Cron

    from flows.batch import batch

    parameters = wanted.parameters()
    tags = [TAG, f"batch:{wanted.name}", f"preset:{wanted.preset}", *wanted.tags]
    try:
        schedule = Cron(wanted.cron, timezone=wanted.timezone)
        return _deployment(batch, wanted.name, pool, tags=tags, schedule=schedule, parameters=parameters, paused=wanted.paused)
    except ValueError as error:
        raise InputError(
            f"{wanted.cron!r} in {wanted.timezone!r} is no schedule: expected five fields such as '0 * * * *'"
        ) from error


def _deployment(called: Any, name: str, pool: Pool, *, tags: Sequence[str], **more: Any) -> "RunnerDeployment":
    from prefect.types.entrypoint import EntrypointType

    made: RunnerDeployment = called.to_deployment(
        name=name,
        tags=list(tags),
        work_pool_name=pool.name,
        job_variables=pool.job_variables,
        concurrency_limit=1 if more else None,
        entrypoint_type=EntrypointType.MODULE_PATH,
        **more,
    )
    return made
