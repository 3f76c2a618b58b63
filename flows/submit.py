"""A batch from what was submitted to what is published. What is already whole in the store needs neither Prefect nor torch."""

import errno
import secrets
import time
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import img2mesh
from flows.assets import AssetDocument, Assets, BatchDocument, Row, listed_json, open_assets
from flows.found import Finder, Whole
from flows.inbox import Inbox, Item, batch_name, collect, safe_name
from flows.launch import Launch, in_process
from flows.options import mesh_options
from flows.reconstruct import Event, Listen, Ran, Reconstruction, RunStage, Step, Walk, find_done
from img2mesh.errors import ArtifactError, Img2MeshError, InputError, TransientError
from img2mesh.manifests import Model, SourceImage
from img2mesh.neus.config import Method
from img2mesh.stage import canonical_json, sha256_hex
from img2mesh.storage import Store, file_error, open_store

# Which class decides the exit code of a batch in which several things went wrong: the one to act on first.
_EXIT_ORDER = (1, 75, 3, 4, 2)


class Request(Model):
    """What a person asked for."""

    paths: tuple[str, ...]
    assets: str
    store: str
    name: str
    preset: str
    formats: tuple[str, ...]
    seed: int
    neus: Method = "native"
    faces: int | None = None
    lods: tuple[int, ...] | None = None
    remesh: str | None = None

    @classmethod
    def of(
        cls,
        paths: Sequence[str],
        *,
        assets: str = "assets",
        store: str | None = None,
        name: str | None = None,
        preset: str = "compact",
        formats: Sequence[str] = ("glb", "obj"),
        seed: int = 0,
        neus: Method = "native",
        faces: int | None = None,
        lods: Sequence[int] | None = None,
        remesh: str | None = None,
    ) -> "Request":
        """The request with the defaults filled in: the store below the assets, the name from the folder.

        Raises:
            InputError: There are no paths, the name is none for a folder, or the options of the mesh make no sense.
        """
        if not paths:
            raise InputError("nothing was submitted: expected files, folders or s3://bucket/prefix")
        mesh_options(faces, lods, remesh)
        if name is not None and (not name or safe_name(name) != name):
            raise InputError(f"--name {name!r} cannot be a folder's name; try {safe_name(name, otherwise='batch')!r}")
        return cls(
            paths=tuple(paths),
            assets=assets,
            store=store or default_store(assets),
            name=name or batch_name(paths),
            preset=preset,
            formats=tuple(formats),
            seed=seed,
            neus=neus,
            faces=faces,
            lods=None if lods is None else tuple(lods),
            remesh=remesh,
        )


def default_store(assets: str) -> str:
    """Where blobs and manifests are if nobody says otherwise: hidden among the assets."""
    return f"{assets.rstrip('/')}/.store"


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How one image ended: published, with the stages it went through, or with an error."""

    item: Item
    ran: tuple[Ran, ...] = ()
    seconds: float | None = None
    scores: dict[str, float] = field(default_factory=dict)
    error: Exception | None = None

    @property
    def status(self) -> str:
        """`published`, `refused` (the picture is at fault) or `failed` (something else is)."""
        if self.error is None:
            return "published"
        return "refused" if isinstance(self.error, InputError) else "failed"

    @property
    def exit_code(self) -> int:
        """0, or that of the error's class; 1 for an error that is none of ours."""
        return getattr(self.error, "exit_code", 1) if self.error is not None else 0

    def row(self) -> Row:
        """The image in `batch.json`."""
        return Row(
            name=self.item.name,
            file=self.item.file,
            status=self.status,
            seconds=self.seconds,
            scores=self.scores,
            error=type(self.error).__name__ if self.error else None,
            reason=one_line(self.error) if self.error else None,
        )


@dataclass(frozen=True, kw_only=True)
class Report:
    """How a submit ended."""

    request: Request
    assets_uri: str
    store_uri: str
    outcomes: tuple[Outcome, ...]
    ignored: int
    seconds: float

    @property
    def exit_code(self) -> int:
        """0 if all is published, 2 if pictures were refused, otherwise by the class of the error."""
        codes = {outcome.exit_code for outcome in self.outcomes}
        return next((code for code in _EXIT_ORDER if code in codes), 0)

    def count(self, status: str) -> int:
        """How many images ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    def stages(self, *, cached: bool) -> int:
        """How many stages were found done, or were computed."""
        return sum(ran.cached == cached for outcome in self.outcomes for ran in outcome.ran)

    def as_dict(self) -> dict[str, Any]:
        """The report for machines."""
        return {
            "kind": "report/v1",
            "tool_version": img2mesh.__version__,
            **self.request.model_dump(mode="json"),
            "batch": self.request.name,
            "assets": self.assets_uri,
            "store": self.store_uri,
            "exit_code": self.exit_code,
            "seconds": round(self.seconds, 3),
            "published": self.count("published"),
            "refused": self.count("refused"),
            "failed": self.count("failed"),
            "ignored_files": self.ignored,
            "stages_computed": self.stages(cached=False),
            "stages_found": self.stages(cached=True),
            "rows": [_report_row(outcome, self) for outcome in self.outcomes],
        }


@dataclass(kw_only=True)
class Job:
    """A batch at work: what Prefect's flows and the plain look-up share."""

    request: Request
    pipeline: Sequence[Step]
    store: Store
    assets: Assets
    listen: Listen
    launch: Launch = in_process
    tracebacks: list[str] = field(default_factory=list)

    def walk(self, item: Item, run_stage: RunStage) -> Walk:
        """The way of one image, not yet begun."""
        assert item.source is not None
        return Walk(
            image=item.name,
            source=item.source,
            pipeline=self.pipeline,
            store=self.store,
            run_stage=run_stage,
            listen=self.listen,
        )

    def work_name(self, item: Item) -> str:
        """The same for all who would compute the same from this image, and for nobody else."""
        assert item.source is not None
        steps = [[stage.name, str(stage.version), params.model_dump(mode="json")] for stage, params in self.pipeline]
        return sha256_hex(canonical_json({"image": item.source.image.sha256, "steps": steps}))

    def publish(self, item: Item, done: Reconstruction) -> Outcome:
        """Make the asset appear."""
        document = _document(self.request, item.name, done)
        self.assets.publish(document, self.store)
        return Outcome(item=item, ran=done.ran, seconds=document.seconds, scores=document.scores)

    def found(self, item: Item, whole: Whole) -> Outcome:
        """The image as one that needed nothing."""
        names = [stage.name for stage, _ in self.pipeline]
        ran = tuple(Ran(name=name, seconds=seconds, cached=True) for name, seconds in zip(names, whole.seconds, strict=True))
        return Outcome(item=item, ran=ran, seconds=round(sum(whole.seconds), 3), scores=whole.scores)

    def failed(self, item: Item, error: Exception) -> Outcome:
        """The image as one that did not become an asset, for the reason given."""
        ours = as_ours(error)
        if not isinstance(ours, Img2MeshError):
            self.tracebacks.append("".join(traceback.format_exception(error)))
        return Outcome(item=item, error=ours)


RunPending = Callable[[Job, Sequence[Item]], list[Outcome]]


def in_prefect(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """Compute the images in Prefect's flow `batch`, on the server of `PREFECT_API_URL` or on the embedded one."""
    from flows.embedded import prefect_api

    with prefect_api() as wait_until_it_answers:
        # Importing Prefect and starting its server take seconds each: they do so side by side.
        from flows.batch import run_as_flow

        wait_until_it_answers()
        return run_as_flow(job, items)


def ignore(event: object) -> None:
    """Listen to nothing."""


def submit(
    request: Request,
    pipeline: Sequence[Step],
    *,
    listen: Listen = ignore,
    expect: Callable[[int], None] = ignore,
    launch: Launch = in_process,
    run_pending: RunPending = in_prefect,
) -> Report:
    """Reconstruct and publish every image of the request.

    Args:
        request: What a person asked for.
        pipeline: The stages with their parameters, in order.
        listen: Is told what happens while it happens.
        expect: Is told how many images are still to be computed, before the first is.
        launch: Runs one stage, here or elsewhere.
        run_pending: Computes the images that are not yet done.

    Raises:
        InputError: There is nothing to do, or the assets or the store cannot be written.
        TransientError: The store or the server is out of reach.
    """
    start = time.perf_counter()
    store, assets = open_store(request.store), open_assets(request.assets)
    store.check()
    assets.check_writable()
    inbox = collect(request.paths, store, exclude=(request.assets, request.store))
    job = Job(request=request, pipeline=pipeline, store=store, assets=assets, listen=listen, launch=launch)
    finder = Finder(pipeline, store, assets, batch=request.name, preset=request.preset, seed=request.seed)
    with ThreadPoolExecutor(max(store.calls_at_once, assets.objects.calls_at_once)) as pool:
        settled = list(pool.map(partial(_settle, job, finder), inbox.items))
    outcomes = {outcome.item.name: outcome for outcome in settled if outcome is not None}
    for outcome in outcomes.values():
        _tell(job, outcome)
    pending = [item for item in inbox.items if item.name not in outcomes]
    if pending:
        expect(len(pending))
        outcomes |= {outcome.item.name: outcome for outcome in run_pending(job, pending)}
    return _finish(job, inbox, [outcomes[item.name] for item in inbox.items], time.perf_counter() - start)


def as_ours(error: Exception) -> Exception:
    """The error, where it says what a person can do about it; the operating system's are translated, bugs stay as they are."""
    if isinstance(error, Img2MeshError):
        return error
    if isinstance(error, MemoryError):
        return TransientError("out of memory; close other programs or choose a smaller preset, then submit again")
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO):
        return file_error(error, f"write {error.filename or 'a file'}")
    return error


def one_line(error: Exception) -> str:
    """The error's message on one line; for one that is none of ours, its class too."""
    text = " ".join(str(error).split())
    if isinstance(error, Img2MeshError):
        return text
    return f"internal error, {type(error).__name__}: {text}; the run's record in the store has the traceback, please report it"


def _settle(job: Job, finder: Finder, item: Item) -> Outcome | None:
    """The outcome that needs no computation: unreadable, refused before and still refused, or done; None for all others."""
    if item.refusal is not None:
        return Outcome(item=item, error=item.refusal)
    try:
        whole = finder(item)
        if whole is not None:
            return job.found(item, whole)
        if _was_refused(job, item):
            return _refuse_again(job, item)
        done = find_done(job.walk(item, _never))
        if done is None:
            return None
        return job.publish(item, done)
    except Img2MeshError as error:
        return None if isinstance(error, ArtifactError) else job.failed(item, error)


def _tell(job: Job, outcome: Outcome) -> None:
    for ran in outcome.ran:
        job.listen(Event(image=outcome.item.name, stage=ran.name, phase="cached", seconds=ran.seconds))


def _never(stage: Any, inputs: Model, params: Model) -> Any:
    raise AssertionError(f"{stage.name} was to be looked up, not run")


def _refusal_key(job: Job, source: SourceImage) -> str:
    stage, params = job.pipeline[0]
    return f"refusals/{stage.name}/{stage.key(source, params)}"


def _was_refused(job: Job, item: Item) -> bool:
    assert item.source is not None
    return job.store.size(_refusal_key(job, item.source)) is not None


def _refuse_again(job: Job, item: Item) -> Outcome | None:
    """Look at a refused picture again, here: the first stage is cheap, and its reason may be gone (a decoder was installed)."""
    stage, params = job.pipeline[0]
    try:
        stage(item.source, params, job.store)
    except InputError as error:
        return job.failed(item, error)
    return None


def _finish(job: Job, inbox: Inbox, outcomes: list[Outcome], seconds: float) -> Report:
    request = job.request
    for outcome in outcomes:
        source = outcome.item.source
        if isinstance(outcome.error, InputError) and source is not None:
            job.store.create(_refusal_key(job, source), str(outcome.error).encode())
    rows = tuple(outcome.row() for outcome in outcomes)
    job.assets.write_batch(
        BatchDocument(name=request.name, tool_version=img2mesh.__version__, preset=request.preset, seed=request.seed, rows=rows)
    )
    report = Report(
        request=request,
        assets_uri=job.assets.uri,
        store_uri=job.store.uri,
        outcomes=tuple(outcomes),
        ignored=inbox.ignored,
        seconds=seconds,
    )
    run = f"{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}-{secrets.token_hex(4)}"
    job.store.write(f"runs/{run}.json", listed_json({**report.as_dict(), "tracebacks": job.tracebacks}))
    return report


def _document(request: Request, name: str, done: Reconstruction) -> AssetDocument:
    prepared = done.asset.source.source.source.source.source
    records = tuple(passed.record for passed in done.passed)
    return AssetDocument(
        name=name,
        batch=request.name,
        tool_version=img2mesh.__version__,
        preset=request.preset,
        seed=request.seed,
        input_file=done.source.name,
        input=done.source.image,
        matting=prepared.matting,
        matting_confidence=prepared.matting_confidence,
        stages=records,
        seconds=round(sum(record.seconds for record in records), 3),
        scores=done.asset.scores,
        files=done.asset.files,
    ).sealed()


def _report_row(outcome: Outcome, report: Report) -> dict[str, Any]:
    row = outcome.row().model_dump(mode="json")
    stages = [
        {"name": ran.name, "seconds": ran.seconds, "cached": ran.cached, "retries": list(ran.retries)} for ran in outcome.ran
    ]
    folder = f"{report.assets_uri}/{report.request.name}/{outcome.item.name}"
    return {**row, "stages": stages, "asset": folder if outcome.error is None else None}
