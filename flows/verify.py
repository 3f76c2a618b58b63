"""Whether what was published is still what it was: files, `asset.json`, manifests and blobs, byte by byte."""

from collections.abc import Iterator

from pydantic import JsonValue, TypeAdapter, ValidationError

from flows.assets import BATCH, AssetDocument, Assets
from img2mesh.errors import ArtifactError
from img2mesh.manifests import Blob
from img2mesh.stage import read_publication
from img2mesh.storage import Store, blob_key, manifest_key

_BLOB: TypeAdapter[Blob] = TypeAdapter(Blob)


def damages(assets: Assets, store: Store, batches: list[str], *, all_stored: bool = False) -> Iterator[str]:
    """What is missing or rotten, one line each; everything is read and re-hashed.

    Args:
        assets: The published assets.
        store: Where blobs and manifests are.
        batches: Names of the batches to look at.
        all_stored: Look at the manifests and blobs of the store, too, that none of these batches has used.
    """
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

    if all_stored:
        yield from _other_damages(store, checked)


def _other_damages(store: Store, checked: set[str]) -> Iterator[str]:
    for place in store.list("manifests/"):
        _, stage, file = place.split("/")
        yield from _manifest_damages(stage, file.removesuffix(".json"), store, checked)
    for entry in store.entries("blobs/sha256/"):
        if entry.key not in checked:
            digest = entry.key.rpartition("/")[2]
            blob = Blob.model_construct(sha256=digest, size_bytes=entry.size_bytes, media_type="")
            yield from (f"{damage}; no manifest needs it" for damage in _blob_damages(blob, store, checked))


def _absent(assets: Assets, batch: str) -> list[str]:
    report = assets.batch(batch)
    there = set(assets.names(batch))
    return [row.name for row in (report.rows if report else ()) if row.status == "published" and row.name not in there]


def _lineage_damages(document: AssetDocument, store: Store, checked: set[str]) -> Iterator[str]:
    yield from _blob_damages(document.input, store, checked)
    for record in document.stages:
        yield from _manifest_damages(record.name, record.key, store, checked)


def _manifest_damages(stage: str, key: str, store: Store, checked: set[str]) -> Iterator[str]:
    place = manifest_key(stage, key)
    if place in checked:
        return
    checked.add(place)
    try:
        data = store.get_manifest(stage, key)
        publication = None if data is None else read_publication(data, stage=stage, key=key)
    except ArtifactError:
        yield f"{place}: does not match its SHA-256"
        return
    if publication is None:
        yield f"{place}: missing"
        return
    for blob in blobs_in(publication.outputs):
        yield from _blob_damages(blob, store, checked)


def blobs_in(value: JsonValue) -> Iterator[Blob]:
    """Every blob in a manifest's JSON, those of its sources too."""
    if isinstance(value, dict):
        if set(value) == set(Blob.model_fields):
            try:
                yield _BLOB.validate_python(value)
            except ValidationError:
                return
        else:
            for item in value.values():
                yield from blobs_in(item)
    elif isinstance(value, list):
        for item in value:
            yield from blobs_in(item)


def _blob_damages(blob: Blob, store: Store, checked: set[str]) -> Iterator[str]:
    place = blob_key(blob)
    if place in checked:
        return
    checked.add(place)
    try:
        store.get_blob(blob)
    except ArtifactError:
        yield f"{place}: missing" if store.size(place) is None else f"{place}: does not match its SHA-256"
