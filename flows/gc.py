"""What the store holds and no manifest reaches.

A running stage puts its blobs first and its manifest last, so what is young is spared; a blob that is put again becomes young
again (`img2mesh.storage.RENEWAL_S`). Ages are taken by the clock of the store, so a wrong clock here removes nothing.
"""

import json
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from flows.claims import PREFIX
from flows.verify import blobs_in
from img2mesh.errors import ArtifactError
from img2mesh.storage import Entry, Store, blob_key

_THREADS = 16


@dataclass(frozen=True, kw_only=True)
class Garbage:
    """What was found; `spared` is what no manifest reaches and yet is too young to go."""

    entries: tuple[Entry, ...]
    spared: int
    uploads: int

    def describe(self) -> str:
        """How much it is, for a person."""
        size_mb = sum(entry.size_bytes for entry in self.entries) / 1e6
        uploads = f", {self.uploads} unfinished uploads" if self.uploads else ""
        return f"{len(self.entries)} objects of {size_mb:.1f} MB{uploads}"

    def as_dict(self) -> dict[str, Any]:
        """The same for a machine."""
        return {
            "objects": [entry.key for entry in self.entries],
            "size_bytes": sum(entry.size_bytes for entry in self.entries),
            "spared": self.spared,
            "uploads": self.uploads,
        }


def collect_garbage(store: Store, *, older_s: float, delete: bool) -> Garbage:
    """The objects that nothing needs, removed if so wished.

    Args:
        store: Where blobs and manifests are.
        older_s: Age in seconds from which on something may go.
        delete: Whether to remove it.
    """
    now_s = store.clock_s()
    # The listing of blobs comes first: what a manifest names that appears meanwhile is not among them, or is reached.
    unreached = [*store.entries("blobs/"), *store.entries("probes/"), *store.entries(PREFIX)]
    needed = reached(store)
    unreached = [entry for entry in unreached if entry.key not in needed]
    old = tuple(entry for entry in unreached if now_s - entry.modified_s >= older_s)
    if delete:
        with ThreadPoolExecutor(_THREADS) as pool:
            list(pool.map(store.delete, [entry.key for entry in old]))
    uploads = store.abort_uploads(older_s) if delete else 0
    return Garbage(entries=old, spared=len(unreached) - len(old), uploads=uploads)


def reached(store: Store) -> set[str]:
    """Keys of all blobs that a manifest names, be it as its own or as its sources'; a rotten one's, too, if it can be read."""

    def named(key: str) -> Iterable[str]:
        try:
            document = json.loads(store.read(key) or b"null")
        except (ArtifactError, ValueError):
            return ()
        return [blob_key(blob) for blob in blobs_in(document)]

    with ThreadPoolExecutor(_THREADS) as pool:
        return {key for keys in pool.map(named, list(store.list("manifests/"))) for key in keys}
