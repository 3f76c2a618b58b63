"""One image through the stages, and what happens when one of them fails.

`InputError` ends the image. `ArtifactError` walks again from the start, once: what is whole is found, what has rotted is
computed anew. `NumericalError` repeats the nearest stage that has a seed with the next seed, once, and the lineage says why.
`TransientError` is the business of the task that runs a stage: it backs off and tries again.
"""

import importlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from pydantic import BaseModel

from flows.assets import StageRecord
from img2mesh.errors import ArtifactError, NumericalError
from img2mesh.manifests import MeshAsset, Model, MultiviewLatents, PreparedImage, SourceImage, WeightsRef
from img2mesh.models.home import origins
from img2mesh.stage import Result, Stage
from img2mesh.storage import Store
from stages import NAMES

if TYPE_CHECKING:
    from img2mesh.presets import Preset

AnyStage = Stage[Any, Any, Any]
GeneratorParams = TypeVar("GeneratorParams", bound=Model)
Step = tuple[AnyStage, Model]
RunStage = Callable[[AnyStage, Model, Model], Result[Any]]


@dataclass(frozen=True, kw_only=True)
class Event:
    """Something a person may want to see: a stage of an image starts, ends, was found, or is tried again."""

    image: str
    stage: str
    phase: Literal["start", "done", "cached", "retry"]
    seconds: float = 0.0
    detail: str = ""


Listen = Callable[[Event], None]


@dataclass(frozen=True, kw_only=True)
class Passed:
    """One stage that an image went through; `cached` is whether this submit found it done."""

    record: StageRecord
    cached: bool


@dataclass(frozen=True, kw_only=True, slots=True)
class Ran:
    """What a report says of a stage: of 10,000 images it keeps this and no more."""

    name: str
    seconds: float
    cached: bool
    retries: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """An image's mesh with everything that led to it."""

    source: SourceImage
    asset: MeshAsset
    passed: tuple[Passed, ...]

    @property
    def ran(self) -> tuple[Ran, ...]:
        """Its stages, for reports."""
        records = [(one.record, one.cached) for one in self.passed]
        return tuple(Ran(name=one.name, seconds=one.seconds, cached=cached, retries=one.retries) for one, cached in records)


def stages_of(preset: "Preset", *, seed: int, formats: Sequence[str]) -> list[Step]:
    """The six stages with their parameters, in order; torch is not imported."""
    steps: list[Step] = []
    for name in NAMES:
        module = importlib.import_module(f"stages.{name}")
        more = {"formats": tuple(formats)} if name == "export_mesh" else {}
        steps.append((module.STAGE, module.Params.of(preset, seed=seed, **more)))
    return steps


def with_generator(
    pipeline: Sequence[Step], stage: Stage[PreparedImage, GeneratorParams, MultiviewLatents], params: GeneratorParams
) -> list[Step]:
    """The pipeline with another multi-view generator in place of its own.

    Args:
        pipeline: As `stages_of` gives it.
        stage: From a prepared picture to latents, of the autoencoder that the pipeline decodes with, and their cameras: the six
            of `geometry.cameras.orbit`, in that order. It needs a name of its own, under which its results are kept.
        params: Its parameters; everything that changes its output, weights by digest.
    """
    steps: list[Step] = []
    for known, given in pipeline:
        if known.outputs is MultiviewLatents:
            steps.append((stage, params))
        else:
            # What is written into the files names the generator that made them.
            named = {"model": stage.name} if hasattr(given, "model") else {}
            steps.append((known, given.model_copy(update=named)))
    return steps


@dataclass(kw_only=True)
class Walk:
    """The way of one image.

    Args:
        image: Its name, for the events.
        source: Its bytes.
        pipeline: The stages with their parameters; the first reads `source`, each next one what the one before has written.
        store: Where everything is.
        run_stage: Runs one stage or finds it done; raises what the stage raises.
        listen: Is told what happens.
    """

    image: str
    source: SourceImage
    pipeline: Sequence[Step]
    store: Store
    run_stage: RunStage
    listen: Listen

    def __call__(self) -> Reconstruction:
        """The mesh of the last stage.

        Raises:
            Img2MeshError: What a stage raised, after what its class allows has been tried.
        """
        self._params = [params for _, params in self.pipeline]
        self._retries: dict[int, str] = {}
        self._computed: set[str] = set()
        self._mended = False
        values: list[Model] = [self.source]
        passed: list[Passed] = []
        while len(passed) < len(self.pipeline):
            index = len(passed)
            try:
                result = self._step(index, values[index])
            except NumericalError as error:
                back_to = self._reseed(index, values[index], error)
            except ArtifactError as error:
                back_to = self._mend(index, error)
            else:
                values.append(result.outputs)
                passed.append(self._passed(index, result))
                continue
            del values[back_to + 1 :], passed[back_to:]
        asset = values[-1]
        assert isinstance(asset, MeshAsset)
        return Reconstruction(source=self.source, asset=asset, passed=tuple(passed))

    def _step(self, index: int, inputs: Model) -> Result[Any]:
        stage, params = self.pipeline[index][0], self._params[index]
        reason = self.store.read(failure_key(stage, inputs, params))
        if reason is not None and self._seeded(index) is not None:
            raise NumericalError(reason.decode())
        self.listen(Event(image=self.image, stage=stage.name, phase="start"))
        result = self.run_stage(stage, inputs, params)
        if not result.cached:
            self._computed.add(result.publication.key)
        return result

    def _passed(self, index: int, result: Result[Any]) -> Passed:
        made = result.publication
        cached = made.key not in self._computed
        self.listen(Event(image=self.image, stage=made.stage, phase="cached" if cached else "done", seconds=made.seconds))
        record = StageRecord(
            name=made.stage,
            version=made.version,
            key=made.key,
            params=made.params,
            weights=lineage(self._params[index]),
            seconds=made.seconds,
            retries=(self._retries[index],) if index in self._retries else (),
        )
        return Passed(record=record, cached=cached)

    def _seeded(self, index: int) -> int | None:
        """The nearest stage, going back, whose seed can still be changed: each once."""
        for place in range(index, -1, -1):
            if hasattr(self._params[place], "seed"):
                return None if place in self._retries else place
        return None

    def _reseed(self, index: int, inputs: Model, error: NumericalError) -> int:
        place = self._seeded(index)
        if place is None:
            raise error
        stage, params = self.pipeline[index][0], self._params[index]
        # A rerun reads this and takes the same turn without failing first.
        self.store.create(failure_key(stage, inputs, params), str(error).encode())
        seed = int(getattr(self._params[place], "seed"))  # noqa: B009 - only some parameter classes have a seed
        self._params[place] = self._params[place].model_copy(update={"seed": seed + 1})
        self._retries[place] = f"seed {seed} failed in {stage.name}: {error}"
        self._tell(index, f"{error}; trying seed {seed + 1}")
        return place

    def _mend(self, index: int, error: ArtifactError) -> int:
        if self._mended:
            raise error
        self._mended = True
        self._tell(index, f"{error}; computing it anew")
        return 0

    def _tell(self, index: int, detail: str) -> None:
        self.listen(Event(image=self.image, stage=self.pipeline[index][0].name, phase="retry", detail=detail))


def failure_key(stage: AnyStage, inputs: Model, params: Model) -> str:
    """Where the store remembers that a stage found no solution with these parameters."""
    return f"failures/{stage.name}/{stage.key(inputs, params)}"


def weights_in(value: object) -> Iterator[WeightsRef]:
    """Every weights reference in a stage's parameters."""
    if isinstance(value, WeightsRef):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            yield from weights_in(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from weights_in(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from weights_in(item)


class NotDoneError(Exception):
    """A stage is still to be run."""


def find_done(walk: Walk) -> Reconstruction | None:
    """The whole way of the image from the store alone, or None if any stage is missing or has rotted."""

    def look_up(stage: AnyStage, inputs: Model, params: Model) -> Result[Any]:
        result = stage.lookup(inputs, params, walk.store)
        if result is None:
            raise NotDoneError
        return result

    try:
        return replace(walk, run_stage=look_up, listen=lambda event: None)()
    except (NotDoneError, ArtifactError, NumericalError):
        return None


def lineage(params: Model) -> dict[str, str]:
    """Digests of the weights that parameters name, and of the published files that these were converted from."""
    found = {}
    for weights in weights_in(params):
        found[weights.name] = weights.sha256
        found |= {f"{weights.name} < {file}": sha256 for file, sha256 in origins(weights.name).items()}
    return found
