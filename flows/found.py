"""What is done already, told from bytes alone: quickly, since a batch is submitted again far more often than it is computed.

Nothing is taken on trust. Every publication, every blob and every published file of the image is read and hashed; only no
models are made of them. An image of which anything is missing or other than expected goes the ordinary way, which mends it.
"""

import json
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import img2mesh
from flows.assets import DOCUMENT, AssetDocument, Assets
from flows.inbox import Item
from flows.reconstruct import AnyStage, Step
from img2mesh.errors import ArtifactError, InputError
from img2mesh.manifests import Blob
from img2mesh.stage import Published, canonical_json
from img2mesh.storage import Store

_BLOB = frozenset(Blob.model_fields)


@dataclass(frozen=True, kw_only=True)
class Whole:
    """An image that is published and whole: seconds of each stage, and scores of the mesh."""

    seconds: tuple[float, ...]
    scores: dict[str, float]


class Finder:
    """Finds the images of one batch that need nothing; it may be asked from several threads."""

    def __init__(self, pipeline: Sequence[Step], store: Store, assets: Assets, *, batch: str, preset: str, seed: int) -> None:
        """List what is published.

        Args:
            pipeline: The stages with their parameters.
            store: Where blobs and manifests are.
            assets: Where the assets are.
            batch: Its name.
            preset: As the assets are to name it.
            seed: The same.
        """
        self._steps: list[tuple[AnyStage, bytes]] = [(stage, canonical_json(params)) for stage, params in pipeline]
        self._store, self._assets, self._batch = store, assets, batch
        self._made_by = (img2mesh.__version__, preset, seed)
        self._published: dict[str, set[str]] = defaultdict(set)
        for key in assets.objects.list(f"{batch}/"):
            name, _, file = key.removeprefix(f"{batch}/").partition("/")
            self._published[name].add(file)

    def __call__(self, item: Item) -> Whole | None:
        """What is known of the image if it is whole in every part, else None."""
        if DOCUMENT not in self._published.get(item.name, ()) or item.source is None:
            return None
        try:
            document = self._assets.document(self._batch, item.name)
            chain = self._chain(canonical_json(item.source))
            outputs = [json.loads(one.outputs) for one in chain]
            if not outputs or not self._describes(document, item, chain, outputs[-1]):
                return None
            blobs = {blob.sha256: blob for one in [item.source.model_dump(), *outputs] for blob in _own_blobs(one)}
            for blob in blobs.values():
                self._store.get_blob(blob)
            whole = self._is_published(document)
        except (ArtifactError, InputError):
            return None
        return Whole(seconds=tuple(one.seconds for one in chain), scores=document.scores) if whole else None

    def _chain(self, inputs: bytes) -> list[Published]:
        """The publications of all stages, or none."""
        chain: list[Published] = []
        for stage, params in self._steps:
            found = stage.published(inputs, params, self._store)
            if found is None:
                return []
            chain.append(found)
            inputs = found.outputs
        return chain

    def _describes(self, document: AssetDocument, item: Item, chain: list[Published], mesh: dict[str, Any]) -> bool:
        """Whether the asset's document is the one that publishing anew would write: keys stand for parameters and weights."""
        assert item.source is not None
        return (
            [(one.key, one.seconds, one.retries) for one in document.stages] == [(one.key, one.seconds, ()) for one in chain]
            and (document.batch, document.name) == (self._batch, item.name)
            and (document.input_file, document.input) == (item.source.name, item.source.image)
            and (document.tool_version, document.preset, document.seed) == self._made_by
            and {name: blob.model_dump() for name, blob in document.files.items()} == mesh["files"]
            and document.scores == mesh["scores"]
        )

    def _is_published(self, document: AssetDocument) -> bool:
        return self._published[document.name] == {*document.files, DOCUMENT} and not any(self._assets.rotten_files(document))


def _own_blobs(value: Any) -> Iterator[Blob]:
    """Every blob in a manifest's JSON, except those of its `source`, which are looked at in their own turn."""
    if isinstance(value, dict):
        if value.keys() == _BLOB:
            # Not validated: the store compares what it reads with it.
            yield Blob.model_construct(**value)
        else:
            for name, item in value.items():
                if name != "source":
                    yield from _own_blobs(item)
    elif isinstance(value, list):
        for item in value:
            yield from _own_blobs(item)
