"""Whether what was published is still what it was: files, `asset.json`, manifests and blobs, byte by byte."""

from collections.abc import Iterator

from pydantic import JsonValue, TypeAdapter, ValidationError

from flows.assets import BATCH, AssetDocument, Assets, StageRecord
from img2mesh.errors import ArtifactError
from img2mesh.manifests import Blob
from img2mesh.stage import read_publication
from img2mesh.storage import Store, blob_key

_BLOB: TypeAdapter[Blob] = TypeAdapter(Blob)


def damages(assets: Assets, store: Store, batches: list[str]) -> Iterator[str]:
    """What is missing or rotten in these batches, one line each; everything is read and re-hashed."""
    checked: set[str] = set()
    for batch in batches:
        if assets.objects.size(f"{batch}/{BATCH}") is not None and assets.batch(batch) is None:
            yield f"{batch}/{BATCH}: not readable, or does not match its SHA-256"
        yield from (f"{batch}/{name}: named in {BATCH}, but not there" for name in _absent(assets, batch))
        for name in assets.names(batch):
            try:
                document = assets.document(batch, name)
            except ArtifactError as error:
                yield str(error)
                continue
            yield from assets.rotten_files(document)
            yield from _lineage_damages(document, store, checked)


def _absent(assets: Assets, batch: str) -> list[str]:
    report = assets.batch(batch)
    there = set(assets.names(batch))
    return [row.name for row in (report.rows if report else ()) if row.status == "published" and row.name not in there]


def _lineage_damages(document: AssetDocument, store: Store, checked: set[str]) -> Iterator[str]:
    yield from _blob_damages(document.input, store, checked)
    for record in document.stages:
        yield from _stage_damages(record, store, checked)


def _stage_damages(record: StageRecord, store: Store, checked: set[str]) -> Iterator[str]:
    place = f"manifests/{record.name}/{record.key}.json"
    if place in checked:
        return
    checked.add(place)
    data = store.get_manifest(record.name, record.key)
    if data is None:
        yield f"{place}: missing"
        return
    try:
        publication = read_publication(data, stage=record.name, key=record.key)
    except ArtifactError:
        yield f"{place}: does not match its SHA-256"
        return
    for blob in _blobs(publication.outputs):
        yield from _blob_damages(blob, store, checked)


def _blobs(value: JsonValue) -> Iterator[Blob]:
    """Every blob in a manifest's JSON, those of its sources too."""
    if isinstance(value, dict):
        if set(value) == set(Blob.model_fields):
            try:
                yield _BLOB.validate_python(value)
            except ValidationError:
                return
        else:
            for item in value.values():
                yield from _blobs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _blobs(item)


def _blob_damages(blob: Blob, store: Store, checked: set[str]) -> Iterator[str]:
    place = blob_key(blob)
    if place in checked:
        return
    checked.add(place)
    try:
        store.get_blob(blob)
    except ArtifactError:
        yield f"{place}: missing" if store.size(place) is None else f"{place}: does not match its SHA-256"
