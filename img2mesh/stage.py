"""The stage contract: look up, verify, run, publish once.

A stage is a function of its inputs and parameters. The key is the SHA-256 of its name, version, inputs and parameters, so equal
work is done once for every batch that shares a store. What it publishes is one object, created last and only if absent: its
existence is the commit.
"""

import argparse
import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, Literal, Self, TypeVar

from pydantic import BaseModel, JsonValue, ValidationError

from img2mesh.errors import ArtifactError, Img2MeshError, InputError
from img2mesh.manifests import Blob, Digest, Model
from img2mesh.storage import Store, file_error, manifest_key, open_store

InputsT = TypeVar("InputsT", bound=Model)
ParamsT = TypeVar("ParamsT", bound=Model)
OutputsT = TypeVar("OutputsT", bound=Model)
# How the canonical JSON of a publication ends: seconds, digest, stage, version.
_SEAL = re.compile(rb'([0-9.e+-]+),"sha256":"([0-9a-f]{64})","stage":("[^"\\]*"),"version":("[^"\\]*")}')


class Sealed(Model):
    """A document that carries its own digest, so that one changed byte in it is found."""

    sha256: str = ""

    def sealed(self) -> Self:
        """The same with its digest filled in."""
        return self.model_copy(update={"sha256": self.digest()})

    def is_whole(self) -> bool:
        """Whether the digest fits the rest."""
        return self.sha256 == self.digest()

    def digest(self) -> str:
        """SHA-256 of the canonical JSON of everything but the digest."""
        return sha256_hex(canonical_json(self.model_copy(update={"sha256": ""})))


class Publication(Sealed):
    """What a stage puts at `manifests/<stage>/<key>.json`: its outputs, and how they were made."""

    kind: Literal["publication/v1"] = "publication/v1"
    stage: str
    version: str
    key: Digest
    params: dict[str, JsonValue]
    outputs: dict[str, JsonValue]
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Result(Generic[OutputsT]):
    """A stage's outputs, and whether they were found or made."""

    outputs: OutputsT
    publication: Publication
    cached: bool


@dataclass(frozen=True, kw_only=True)
class Published:
    """A publication as bytes: the outputs' canonical JSON, and the seconds that they took."""

    key: str
    outputs: bytes
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Stage(Generic[InputsT, ParamsT, OutputsT]):
    """A named, versioned function from one manifest to the next.

    Args:
        name: Also the name of its module in `stages`.
        version: Raise it when the same inputs and parameters no longer give the same outputs.
        inputs: Class of the manifest it reads.
        params: Class of its parameters; weights enter by digest.
        outputs: Class of the manifest it writes.
        run: `run(inputs, params, store) -> outputs`; puts its blobs into the store, publishes nothing itself.
    """

    name: str
    version: str | int
    inputs: type[InputsT]
    params: type[ParamsT]
    outputs: type[OutputsT]
    run: Callable[[InputsT, ParamsT, Store], OutputsT]

    def __call__(self, inputs: InputsT, params: ParamsT, store: Store) -> OutputsT:
        """The outputs: found in the store and verified, or else computed and published.

        Raises:
            Img2MeshError: What `run` or the store raised.
        """
        return self.result(inputs, params, store).outputs

    def key(self, inputs: InputsT, params: ParamsT) -> str:
        """SHA-256 of the canonical JSON of name, version, inputs and parameters."""
        return self.key_of(canonical_json(inputs), canonical_json(params))

    def key_of(self, inputs: bytes, params: bytes) -> str:
        """The same from the canonical JSON of both."""
        name, version = (json.dumps(text, ensure_ascii=False).encode() for text in (self.name, str(self.version)))
        return sha256_hex(b'{"inputs":%b,"name":%b,"params":%b,"version":%b}' % (inputs, name, params, version))

    def published(self, inputs: bytes, params: bytes, store: Store) -> "Published | None":
        """What was published for these, read without making models of it; None unless it is whole, byte by byte.

        Args:
            inputs: Canonical JSON of the manifest.
            params: Canonical JSON of the parameters.
            store: Where to look. The blobs are not read.

        Raises:
            ArtifactError: The store says that the bytes are not those that were written.
        """
        key = self.key_of(inputs, params)
        data = store.get_manifest(self.name, key) or b""
        head = b'{"key":"%b","kind":"publication/v1","outputs":' % key.encode()
        middle = b',"params":%b,"seconds":' % params
        end = data.rfind(middle)
        seal = _SEAL.fullmatch(data[end + len(middle) :]) if end > 0 and data.startswith(head) else None
        if seal is None or [json.loads(seal[3]), json.loads(seal[4])] != [self.name, str(self.version)]:
            return None
        start = end + len(middle) + seal.start(2)
        if sha256_hex(data[:start] + data[start + 64 :]) != seal[2].decode():
            return None
        return Published(key=key, outputs=data[len(head) : end], seconds=float(seal[1]))

    def lookup(self, inputs: InputsT, params: ParamsT, store: Store) -> Result[OutputsT] | None:
        """What was published under this key, if it is whole: every blob that this stage made is re-hashed."""
        key = self.key(inputs, params)
        try:
            data = store.get_manifest(self.name, key)
            if data is None:
                return None
            publication = read_publication(data, stage=self.name, key=key)
            outputs = self.outputs.model_validate_json(canonical_json(publication.outputs))
            for blob in own_blobs(outputs):
                store.get_blob(blob)
        except (ArtifactError, ValidationError):
            return None
        return Result(outputs=outputs, publication=publication, cached=True)

    def result(self, inputs: InputsT, params: ParamsT, store: Store) -> Result[OutputsT]:
        """Like a call, and also says how the outputs came to be.

        Raises:
            Img2MeshError: What `run` or the store raised.
        """
        found = self.lookup(inputs, params, store)
        if found is not None:
            return found
        start = time.perf_counter()
        outputs = self.run(inputs, params, store)
        return self._publish(inputs, params, outputs, store, seconds=time.perf_counter() - start)

    def _publish(
        self, inputs: InputsT, params: ParamsT, outputs: OutputsT, store: Store, *, seconds: float
    ) -> Result[OutputsT]:
        key = self.key(inputs, params)
        publication = Publication(
            stage=self.name,
            version=str(self.version),
            key=key,
            params=_plain(params),
            outputs=_plain(outputs),
            seconds=round(seconds, 3),
        ).sealed()
        if not store.put_manifest(self.name, key, canonical_json(publication)):
            # Somebody published first: theirs stands if it is whole; a rotten one is replaced.
            winner = self.lookup(inputs, params, store)
            if winner is not None:
                return Result(outputs=winner.outputs, publication=winner.publication, cached=False)
            store.write(manifest_key(self.name, key), canonical_json(publication))
        return Result(outputs=outputs, publication=publication, cached=False)


def read_publication(data: bytes, *, stage: str, key: str) -> Publication:
    """The publication, verified against its own digest and its place.

    Raises:
        ArtifactError: It is no publication, a byte of it has changed, or it belongs elsewhere.
    """
    try:
        publication = Publication.model_validate_json(data)
    except ValidationError as error:
        raise ArtifactError(f"manifest {stage}/{key[:12]} is not readable: submit again to compute it anew") from error
    if not publication.is_whole() or (publication.stage, publication.key) != (stage, key):
        raise ArtifactError(f"manifest {stage}/{key[:12]} does not match its SHA-256: submit again to compute it anew")
    return publication


def own_blobs(value: object) -> Iterator[Blob]:
    """Every blob that a manifest names, except those of its `source`, which belong to earlier stages."""
    if isinstance(value, Blob):
        yield value
    elif isinstance(value, BaseModel):
        for name in type(value).model_fields:
            if name != "source":
                yield from own_blobs(getattr(value, name))
    elif isinstance(value, dict):
        for item in value.values():
            yield from own_blobs(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from own_blobs(item)


def canonical_json(value: BaseModel | dict[str, Any]) -> bytes:
    """Sorted keys, no spaces, UTF-8, finite numbers: equal values give equal bytes."""
    plain = _plain(value) if isinstance(value, BaseModel) else value
    return json.dumps(plain, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode()


def sha256_hex(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def _plain(model: BaseModel) -> dict[str, Any]:
    return model.model_dump(mode="json")


def read_manifest(path: Path, model: type[OutputsT]) -> OutputsT:
    """A manifest or a parameter file from a local JSON file.

    Raises:
        InputError: The file cannot be read, or is no such manifest.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"cannot read {path}: {(error.strerror or str(error)).lower()}") from error
    try:
        return model.model_validate_json(data)
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(str(part) for part in first["loc"]) or "the file"
        raise InputError(f"{path} is no {model.__name__}: {place}: {first['msg'].lower()}") from error


def main(stage: Stage[InputsT, ParamsT, OutputsT], argv: Sequence[str] | None = None) -> None:
    """Run one stage from the command line: `python -m stages.NAME --in M --out M --store URI [--params FILE]`.

    Exits with 0, or with the code of the error's class and one line on stderr.
    """
    parser = argparse.ArgumentParser(prog=f"python -m stages.{stage.name}", description=f"Run the stage {stage.name} alone.")
    parser.add_argument("--in", dest="input", required=True, type=Path, help=f"JSON file of a {stage.inputs.__name__}")
    parser.add_argument("--out", dest="output", required=True, type=Path, help=f"JSON file to write: {stage.outputs.__name__}")
    parser.add_argument("--store", required=True, help="path, file:///folder or s3://bucket/prefix")
    parser.add_argument("--params", type=Path, help="JSON file of parameters; without it those of the preset 'compact'")
    arguments = parser.parse_args(argv)
    try:
        params = read_manifest(arguments.params, stage.params) if arguments.params else default_params(stage)
        outputs = stage(read_manifest(arguments.input, stage.inputs), params, open_store(arguments.store))
        _replace(arguments.output, canonical_json(outputs))
    except Img2MeshError as error:
        print(f"{stage.name}: {error}", file=sys.stderr)
        sys.exit(error.exit_code)


def default_params(stage: Stage[InputsT, ParamsT, OutputsT]) -> ParamsT:
    """The stage's parameters in the preset `compact` with seed 0.

    Parameters with a class method `of(preset, *, seed)` are built by it; others by their defaults.
    """
    build: Any = getattr(stage.params, "of", None)
    if build is None:
        return stage.params()
    from img2mesh import presets

    built = build(presets.get("compact"), seed=0)
    assert isinstance(built, stage.params)
    return built


def _replace(path: Path, data: bytes) -> None:
    temporary = path.with_name(f".{path.name}.part")
    try:
        temporary.write_bytes(data)
        temporary.replace(path)
    except OSError as error:
        raise file_error(error, f"write {path}") from error
