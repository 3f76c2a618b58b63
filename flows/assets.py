"""The assets a person looks at: `<assets>/<batch>/<name>/` with mesh files, preview and `asset.json`; `<batch>/batch.json`.

An asset appears whole or not at all. In a folder it is put together in a hidden place on the same file system and renamed; a
different asset of the same name is moved aside first, so that for an instant there is none, but never half of one. In a bucket
`asset.json` is removed first and written last, by one who has claimed the asset: what has no `asset.json` is no asset.
"""

import contextlib
import hashlib
import json
import os
import shutil
import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from pydantic import Field, JsonValue, ValidationError

from flows.claims import Claims
from img2mesh.errors import ArtifactError, InputError
from img2mesh.manifests import Blob, Digest, Model
from img2mesh.stage import Sealed, sha256_hex
from img2mesh.storage import FileStore, Store, file_error, open_store, write_durably

DOCUMENT = "asset.json"
BATCH = "batch.json"
_CLAIMS = ".claims/"
_CLAIM_POLL_S = 0.2


class StageRecord(Model):
    """One stage of the lineage: what made it, with which parameters and weights, in what time."""

    name: str
    version: str
    key: Digest
    params: dict[str, JsonValue]
    weights: dict[str, Digest]
    seconds: float
    retries: tuple[str, ...]


class AssetDocument(Sealed):
    """`asset.json`. It depends on the stages' publications alone, so that publishing again gives the same bytes."""

    kind: str = "asset/v1"
    name: str
    batch: str
    ai_generated: bool = True
    tool_version: str
    preset: str
    seed: int
    input_file: str
    input: Blob
    matting: str
    matting_confidence: float
    stages: tuple[StageRecord, ...]
    seconds: float
    scores: dict[str, float]
    files: dict[str, Blob]


class Row(Model):
    """One image in `batch.json`."""

    name: str
    file: str
    status: str
    seconds: float | None = None
    scores: dict[str, float] = Field(default_factory=dict)
    error: str | None = None
    reason: str | None = None


class BatchDocument(Sealed):
    """`batch.json`: one row per image, also the refused ones."""

    kind: str = "batch/v1"
    name: str
    tool_version: str
    preset: str
    seed: int
    rows: tuple[Row, ...]


class Assets(ABC):
    """The published assets of all batches below one URI."""

    def __init__(self, objects: Store) -> None:
        self.objects = objects
        self.uri = objects.uri

    @abstractmethod
    def check_writable(self) -> None:
        """Return if something can be published here.

        Raises:
            InputError: No permission, or no such bucket.
        """

    @abstractmethod
    def _place(self, batch: str, name: str, files: Mapping[str, bytes]) -> None: ...

    @abstractmethod
    def _exclusive(self, folder: str) -> contextlib.AbstractContextManager[None]:
        """Of those who publish this asset, only one at a time."""

    def publish(self, document: AssetDocument, store: Store) -> bool:
        """Make the asset appear, whole; False where the very same was there already, every byte of it checked.

        Raises:
            ArtifactError: A blob of it is missing or corrupt in the store.
        """
        contents = {name: store.get_blob(blob) for name, blob in document.files.items()}
        contents[DOCUMENT] = pretty_json(document)
        folder = f"{document.batch}/{document.name}"
        with self._exclusive(folder):
            there = set(self.objects.list(f"{folder}/"))
            whole = there == {f"{folder}/{name}" for name in contents}
            if whole and all(self.objects.holds(f"{folder}/{name}", data) for name, data in contents.items()):
                return False
            self._place(document.batch, document.name, contents)
        return True

    def write_batch(self, document: BatchDocument) -> BatchDocument:
        """Write `batch.json`, keeping the rows of published images that belong to other submits; returns what was written.

        Two submits of one batch at once: whoever writes last has read what the other wrote, so no row is lost.
        """

        def merge(before: bytes | None) -> bytes:
            earlier = _batch_document(before)
            known = {row.name for row in document.rows}
            there = set(self.names(document.name)) if earlier else set()
            kept = [row for row in (earlier.rows if earlier else ()) if row.name in there - known]
            rows = tuple(sorted((*kept, *document.rows), key=lambda row: row.name))
            return listed_json(document.model_copy(update={"rows": rows}).sealed().model_dump(mode="json"))

        return BatchDocument.model_validate_json(self.objects.update(f"{document.name}/{BATCH}", merge))

    def batches(self) -> list[str]:
        """Names of all batches that have a report or an asset."""
        keys = (key.split("/") for key in self.objects.list())
        return sorted({parts[0] for parts in keys if parts[-1] in (BATCH, DOCUMENT) and len(parts) in (2, 3)})

    def names(self, batch: str) -> list[str]:
        """Names of the published assets of a batch."""
        keys = (key.split("/") for key in self.objects.list(f"{batch}/"))
        return sorted(parts[1] for parts in keys if len(parts) == 3 and parts[2] == DOCUMENT)

    def summary(self, batch: str) -> dict[str, JsonValue]:
        """The batch's name and how many of its images are there, were refused and failed."""
        report = self.batch(batch)
        rows = report.rows if report else ()
        counts: dict[str, JsonValue] = {status: sum(row.status == status for row in rows) for status in ("refused", "failed")}
        return {"name": batch, "published": len(self.names(batch)), **counts, "reported": report is not None}

    def find(self, asset: str) -> tuple[str, str]:
        """Batch and name of `batch/name`, or of a name that only one batch has.

        Raises:
            InputError: There is none, or there are several.
        """
        batch, _, name = asset.strip("/").rpartition("/")
        if batch:
            return batch, name
        found = [batch for batch in self.batches() if name in self.names(batch)]
        if len(found) != 1:
            several = f"in several batches: {', '.join(f'{batch}/{name}' for batch in found)}" if found else "in no batch"
            raise InputError(f"{name!r} is {several} of {self.uri}; `img2mesh status` lists what is there")
        return found[0], name

    def batch(self, name: str) -> BatchDocument | None:
        """The batch's report; None where there is none that can be read."""
        try:
            return _batch_document(self.objects.read(f"{name}/{BATCH}"))
        except ArtifactError:
            return None

    def document(self, batch: str, name: str) -> AssetDocument:
        """The asset's `asset.json`.

        Raises:
            InputError: There is no such asset.
            ArtifactError: The file is not readable as what it should be.
        """
        data = self.objects.read(f"{batch}/{name}/{DOCUMENT}")
        if data is None:
            raise InputError(f"no asset {batch}/{name} in {self.uri}; `img2mesh status` lists what is there")
        again = "submit again to publish it anew"
        try:
            document = AssetDocument.model_validate_json(data)
        except ValidationError as error:
            raise ArtifactError(f"{batch}/{name}/{DOCUMENT} is not readable; {again}") from error
        if not document.is_whole():
            raise ArtifactError(f"{batch}/{name}/{DOCUMENT} does not match its SHA-256; {again}")
        return document

    def rotten_files(self, document: AssetDocument) -> Iterator[str]:
        """Each of the asset's files that is missing or differs from the digest in its document, with what is wrong."""
        for name, blob in document.files.items():
            key = f"{document.batch}/{document.name}/{name}"
            try:
                data = self.objects.read(key)
            except ArtifactError:
                data = b""
            if data is None:
                yield f"{key}: missing"
            elif hashlib.sha256(data).hexdigest() != blob.sha256:
                yield f"{key}: does not match its SHA-256"


def _batch_document(data: bytes | None) -> BatchDocument | None:
    """The report, if these bytes are a whole one."""
    with contextlib.suppress(ValidationError):
        found = BatchDocument.model_validate_json(data) if data is not None else None
        return found if found is not None and found.is_whole() else None
    return None


def open_assets(uri: str) -> Assets:
    """The assets at a path, `file:///folder` or `s3://bucket/prefix`."""
    objects = open_store(uri, "assets")
    return FolderAssets(objects) if isinstance(objects, FileStore) else BucketAssets(objects)


class FolderAssets(Assets):
    """Assets in a folder."""

    def __init__(self, objects: FileStore) -> None:
        super().__init__(objects)
        self._scratch = objects.scratch
        self.root = objects.root

    def check_writable(self) -> None:
        """See `Assets.check_writable`."""
        try:
            probe = self._scratch.path()
            write_durably(probe, b"probe")
            probe.unlink()
        except OSError as error:
            raise file_error(error, f"write to the assets folder {self.root}") from error

    @contextlib.contextmanager
    def _exclusive(self, folder: str) -> Iterator[None]:
        try:
            with self._scratch.exclusive():
                yield
        except OSError as error:
            raise file_error(error, f"write to the assets folder {self.root}") from error

    def _place(self, batch: str, name: str, files: Mapping[str, bytes]) -> None:
        target = self.root / batch / name
        staged, aside = self._scratch.path(), self._scratch.path()
        try:
            staged.mkdir()
            for file, data in files.items():
                write_durably(staged / file, data)
            target.parent.mkdir(parents=True, exist_ok=True)
            if target.exists():
                os.rename(target, aside)
            os.rename(staged, target)
        except OSError as error:
            raise file_error(error, f"publish {batch}/{name} in {self.root}") from error
        finally:
            shutil.rmtree(staged, ignore_errors=True)
            shutil.rmtree(aside, ignore_errors=True)


class BucketAssets(Assets):
    """Assets in a bucket."""

    def check_writable(self) -> None:
        """See `Assets.check_writable`."""
        self.objects.size(BATCH)

    @contextlib.contextmanager
    def _exclusive(self, folder: str) -> Iterator[None]:
        claims, name = Claims(self.objects, prefix=_CLAIMS), sha256_hex(folder.encode())
        while True:
            with claims.claim(name) as ours:
                if ours:
                    yield
                    return
            time.sleep(_CLAIM_POLL_S)

    def _place(self, batch: str, name: str, files: Mapping[str, bytes]) -> None:
        folder = f"{batch}/{name}"
        self.objects.delete(f"{folder}/{DOCUMENT}")
        for key in list(self.objects.list(f"{folder}/")):
            if key.removeprefix(f"{folder}/") not in files:
                self.objects.delete(key)
        for file in sorted(files, key=lambda file: (file == DOCUMENT, file)):
            self.objects.write(f"{folder}/{file}", files[file])


def pretty_json(value: Model | dict[str, Any]) -> bytes:
    """Indented JSON with sorted keys, for files that people open."""
    plain = value.model_dump(mode="json") if isinstance(value, Model) else value
    return (json.dumps(plain, sort_keys=True, indent=2, ensure_ascii=False, allow_nan=False) + "\n").encode()


def listed_json(value: dict[str, Any]) -> bytes:
    """JSON with one line for each name, and for each item of a list below it: files that people open, and that may be long."""

    def line(item: Any) -> str:
        return json.dumps(item, sort_keys=True, ensure_ascii=False, allow_nan=False)

    def lines(item: Any) -> str:
        return (
            "[\n    " + ",\n    ".join(line(one) for one in item) + "\n  ]" if isinstance(item, list) and item else line(item)
        )

    return ("{\n  " + ",\n  ".join(f"{line(name)}: {lines(item)}" for name, item in sorted(value.items())) + "\n}\n").encode()


def preview_path(assets: Assets, document: AssetDocument) -> str | None:
    """Where the preview sheet is: a path for a folder, a URI for a bucket; None without one."""
    if "preview.png" not in document.files:
        return None
    inner = Path(document.batch) / document.name / "preview.png"
    return str(assets.root / inner) if isinstance(assets, FolderAssets) else f"{assets.uri}/{inner.as_posix()}"
