"""Blobs, manifests and plain objects over `file://` and `s3://`.

A store is a flat name space of immutable bytes:

    blobs/sha256/<hex>            content, named by its digest, verified whenever it is read
    manifests/<stage>/<key>.json  created once, last: its existence is the commit
    runs/<id>.json                pointers that may be replaced

On a file system an object is a temporary file, flushed to disk, that `os.link` gives its name only if nobody was first. On S3
(`img2mesh.s3`) it is a PUT with `If-None-Match: *` and a SHA-256 checksum that the server enforces.
"""

import contextlib
import errno
import fcntl
import hashlib
import os
import secrets
import shutil
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar, Literal
from urllib.parse import unquote, urlparse

from img2mesh.errors import ArtifactError, Img2MeshError, InputError, TransientError
from img2mesh.manifests import Blob

# What a store is for, and so which credentials open it: pictures that people put there, blobs and manifests, published meshes.
Role = Literal["inbox", "work", "assets"]

# A blob that is put again is made young again if it is older than this, so that `gc` spares what a running stage relies on.
RENEWAL_S = 3600.0
_OTHER_SERVER = "use a server or a file system that does not (SeaweedFS, AWS S3, a local disk)"


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One object in a listing; `modified_s` is the Unix time of its last writing, by the clock of the store."""

    key: str
    size_bytes: int
    modified_s: float


class Store(ABC):
    """Objects by key; keys are relative, `/`-separated and never climb.

    Methods may be called from several threads; `calls_at_once` is how many at a time are worth it.
    """

    calls_at_once: ClassVar[int] = 1

    def __init__(self, uri: str) -> None:
        self.uri = uri

    @abstractmethod
    def read(self, key: str) -> bytes | None:
        """The object's bytes, or None where there is none."""

    @abstractmethod
    def create(self, key: str, data: bytes) -> bool:
        """Write the object if there is none; False, and nothing written, where there is one. Exactly one creator wins."""

    @abstractmethod
    def write(self, key: str, data: bytes) -> None:
        """Write or replace the object; a reader sees the old bytes or the new ones, never a part."""

    @abstractmethod
    def delete(self, key: str) -> None:
        """Remove the object; nothing happens where there is none."""

    @abstractmethod
    def size(self, key: str) -> int | None:
        """The object's size in bytes, or None where there is none."""

    @abstractmethod
    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """Objects whose keys start with the prefix, in order of their keys."""

    @abstractmethod
    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """Replace the object by what `change` makes of it (None: there is none), and return that; no update is ever lost.

        Args:
            key: Of the object.
            change: Is called again when somebody else was quicker; when it changes nothing, nothing is written.
        """

    @abstractmethod
    def renew(self, key: str, data: bytes) -> None:
        """Make sure that the object is there, has these bytes and is younger than `RENEWAL_S`."""

    @abstractmethod
    def link(self, key: str, seconds: int) -> str:
        """A URL under which a browser finds the object; on S3 it expires after so many seconds, at most seven days."""

    @abstractmethod
    def abort_uploads(self, older_than_s: float) -> int:
        """Remove what unfinished uploads have left, if they began so long ago; returns how many."""

    def list(self, prefix: str = "") -> Iterator[str]:
        """Keys that start with the prefix, in order."""
        return (entry.key for entry in self.entries(prefix))

    def holds(self, key: str, data: bytes) -> bool:
        """Whether the object is exactly these bytes; one that cannot be read undamaged is not."""
        try:
            return self.read(key) == data
        except ArtifactError:
            return False

    def check(self) -> None:
        """Return if the store creates an object exactly once and gives its bytes back.

        Raises:
            InputError: It does not: equal keys would overwrite one another.
            TransientError: It cannot be reached.
        """
        key = f"probes/{secrets.token_hex(8)}"
        try:
            first, second = self.create(key, b"first"), self.create(key, b"second")
            kept = self.read(key)
        finally:
            self.delete(key)
        if (first, second, kept) != (True, False, b"first"):
            raise InputError(f"{self.uri} cannot be a store: it overwrites what is to be created once; {_OTHER_SERVER}")

    def clock_s(self) -> float:
        """The Unix time by the store's own clock, to compare with `Entry.modified_s`."""
        key = f"probes/{secrets.token_hex(8)}"
        try:
            self.write(key, b"")
            (entry,) = self.entries(key)
        finally:
            self.delete(key)
        return entry.modified_s

    def put_blob(self, data: bytes, media_type: str) -> Blob:
        """Store bytes under their digest; doing it again changes nothing, and mends a blob that has rotted."""
        blob = _blob_of(data, media_type)
        if not self.create(blob_key(blob), data):
            self.renew(blob_key(blob), data)
        return blob

    def keep_blob(self, data: bytes, media_type: str) -> Blob:
        """The same, for bytes that are likely there: one look, and nothing is sent where they are."""
        blob = _blob_of(data, media_type)
        self.renew(blob_key(blob), data)
        return blob

    def get_blob(self, blob: Blob) -> bytes:
        """The blob's bytes, verified.

        Raises:
            ArtifactError: The blob is missing, or its size or SHA-256 is another.
        """
        data = self.read(blob_key(blob))
        if data is None:
            raise ArtifactError(f"blob {blob.sha256[:12]} is missing in {self.uri}: submit again to compute it anew")
        if len(data) != blob.size_bytes:
            found = f"has {len(data)} bytes instead of {blob.size_bytes}"
            raise ArtifactError(f"blob {blob.sha256[:12]} {found} in {self.uri}: submit again to compute it anew")
        if hashlib.sha256(data).hexdigest() != blob.sha256:
            raise ArtifactError(
                f"blob {blob.sha256[:12]} does not match its SHA-256 in {self.uri}: submit again to compute it anew"
            )
        return data

    def has_blob(self, blob: Blob) -> bool:
        """Whether a blob of this digest and size is there (its content is not read)."""
        return self.size(blob_key(blob)) == blob.size_bytes

    def get_manifest(self, stage: str, key: str) -> bytes | None:
        """What the stage published under this key, or None."""
        return self.read(manifest_key(stage, key))

    def put_manifest(self, stage: str, key: str, data: bytes) -> bool:
        """Publish once; False, and nothing written, where somebody was first."""
        return self.create(manifest_key(stage, key), data)


def _blob_of(data: bytes, media_type: str) -> Blob:
    return Blob(sha256=hashlib.sha256(data).hexdigest(), size_bytes=len(data), media_type=media_type)


def blob_key(blob: Blob) -> str:
    """Where the blob is in its store."""
    return f"blobs/sha256/{blob.sha256}"


def manifest_key(stage: str, key: str) -> str:
    """Where the stage's publication is in its store."""
    return f"manifests/{stage}/{key}.json"


def open_store(uri: str, role: Role = "work") -> Store:
    """The store at `file:///folder`, a bare path or `s3://bucket/prefix`. Nothing is created or contacted yet.

    Args:
        uri: Where it is.
        role: What it is for; on S3, `IMG2MESH_<ROLE>_PROFILE` names the AWS profile whose credentials open it.

    Raises:
        InputError: The scheme is neither of these, or the bucket is not named.
    """
    parsed = urlparse(uri)
    if parsed.scheme == "s3":
        if not parsed.netloc:
            raise InputError(f"{uri!r} names no bucket: expected s3://bucket/prefix")
        from img2mesh.s3 import S3Store

        return S3Store(uri, bucket=parsed.netloc, prefix=parsed.path.strip("/"), role=role)
    if parsed.scheme == "file":
        if parsed.netloc not in ("", "localhost"):
            raise InputError(f"{uri!r} names the host {parsed.netloc!r}: expected file:///absolute/folder")
        return FileStore(Path(unquote(parsed.path)))
    if "://" in uri:
        raise InputError(f"{uri!r} has an unknown scheme: expected a path, file:///folder or s3://bucket/prefix")
    if not uri:
        raise InputError("a store needs a path, file:///folder or s3://bucket/prefix; the name is empty")
    return FileStore(Path(uri))


class FileStore(Store):
    """A folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.expanduser().absolute()
        self._root = str(self.root).rstrip("/")
        super().__init__(self.root.as_uri())
        self.scratch = Scratch(self.root / ".scratch")

    def path(self, key: str) -> Path:
        """The object's file.

        Raises:
            InputError: The key climbs out of the store.
        """
        return Path(self._place(key))

    def _place(self, key: str) -> str:
        """The same as text, which is made much sooner."""
        if "\0" in key or not {"", ".", ".."}.isdisjoint(key.split("/")):
            raise InputError(f"{key!r} is no object key: expected relative names joined by '/'")
        return f"{self._root}/{key}"

    def read(self, key: str) -> bytes | None:
        """See `Store.read`."""
        with _file_errors(f"read {key} in {self.uri}"):
            try:
                with open(self._place(key), "rb", buffering=0) as file:  # noqa: PTH123 - read for every blob of every image
                    return file.readall()
            except (FileNotFoundError, NotADirectoryError):
                return None

    def create(self, key: str, data: bytes) -> bool:
        """See `Store.create`."""
        path = self.path(key)
        if path.exists():
            return False
        with _file_errors(f"write {key} in {self.uri}"), self._written(data) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            try:
                os.link(temporary, path)
            except FileExistsError:
                return False
            _flush_folder(path.parent)
        return True

    def write(self, key: str, data: bytes) -> None:
        """See `Store.write`."""
        path = self.path(key)
        with _file_errors(f"write {key} in {self.uri}"), self._written(data) as temporary:
            path.parent.mkdir(parents=True, exist_ok=True)
            os.replace(temporary, path)
            _flush_folder(path.parent)

    def delete(self, key: str) -> None:
        """See `Store.delete`."""
        with _file_errors(f"delete {key} in {self.uri}"):
            self.path(key).unlink(missing_ok=True)

    def size(self, key: str) -> int | None:
        """See `Store.size`."""
        entry = self._entry(key)
        return None if entry is None else entry.size_bytes

    def list(self, prefix: str = "") -> Iterator[str]:
        """See `Store.list`; hidden files and folders are not objects."""
        top = self.root.joinpath(*[part for part in prefix.split("/")[:-1] if part])
        found: list[str] = []
        for folder, folders, files in os.walk(top):
            folders[:] = [name for name in folders if not name.startswith(".")]
            place = Path(folder).relative_to(self.root)
            found += [(place / name).as_posix() for name in files if not name.startswith(".")]
        yield from sorted(key for key in found if key.startswith(prefix))

    def entries(self, prefix: str = "") -> Iterator[Entry]:
        """See `Store.entries`."""
        for key in self.list(prefix):
            entry = self._entry(key)
            if entry is not None:
                yield entry

    def _entry(self, key: str) -> Entry | None:
        with _file_errors(f"look at {key} in {self.uri}"):
            try:
                found = self.path(key).stat()
            except (FileNotFoundError, NotADirectoryError):
                return None
        return Entry(key=key, size_bytes=found.st_size, modified_s=found.st_mtime)

    def clock_s(self) -> float:
        """See `Store.clock_s`; nothing is left among the objects."""
        with _file_errors(f"write to {self.uri}"), self._written(b"") as temporary:
            return temporary.stat().st_mtime

    def update(self, key: str, change: Callable[[bytes | None], bytes]) -> bytes:
        """See `Store.update`; the lock is that of the scratch folder."""
        with _file_errors(f"write {key} in {self.uri}"), self.scratch.exclusive():
            before = self.read(key)
            after = change(before)
            if after != before:
                self.write(key, after)
        return after

    def renew(self, key: str, data: bytes) -> None:
        """See `Store.renew`."""
        if not self.holds(key, data):
            self.write(key, data)
            return
        with _file_errors(f"touch {key} in {self.uri}"):
            os.utime(self.path(key))

    def link(self, key: str, seconds: int) -> str:
        """See `Store.link`; a file's does not expire."""
        return self.path(key).as_uri()

    def abort_uploads(self, older_than_s: float) -> int:
        """See `Store.abort_uploads`; what killed processes leave is removed by the next one that opens the scratch folder."""
        return 0

    @contextlib.contextmanager
    def _written(self, data: bytes) -> Iterator[Path]:
        temporary = self.scratch.path()
        try:
            write_durably(temporary, data)
            yield temporary
        finally:
            temporary.unlink(missing_ok=True)


class Scratch:
    """A hidden folder for this process's half-written files.

    Each process holds a lock on its own sub-folder. The one that opens next removes those whose owner has died, so a killed
    process leaves nothing behind for longer than until the next one.
    """

    def __init__(self, root: Path) -> None:
        """Nothing is created before the first use.

        Args:
            root: The folder that all processes share, on the same file system as what is written there is to be moved to.
        """
        self._root = root
        self._own: Path | None = None
        self._process = 0
        self._lock = -1

    def path(self) -> Path:
        """A new name in the folder; the folder is made when it is first needed, and again after a fork."""
        return self._opened() / secrets.token_hex(8)

    @contextlib.contextmanager
    def exclusive(self) -> Iterator[None]:
        """Hold the lock that all processes using this scratch folder share; a holder may call `path`, not this again."""
        self._opened()
        with self._locked():
            yield

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        self._root.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._root / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    def _opened(self) -> Path:
        if self._own is not None and self._process == os.getpid():
            return self._own
        with self._locked():
            if self._own is not None and self._process == os.getpid():
                return self._own  # another thread was quicker
            for folder in self._root.iterdir():
                if folder.is_dir() and not _is_locked(folder):
                    shutil.rmtree(folder, ignore_errors=True)
            own = self._root / secrets.token_hex(8)
            own.mkdir()
            lock = os.open(own, os.O_RDONLY | os.O_CLOEXEC)
            fcntl.flock(lock, fcntl.LOCK_EX)
        self._own, self._process, self._lock = own, os.getpid(), lock
        return own


def write_durably(path: Path, data: bytes) -> None:
    """Write a new file and flush it to the disk."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _is_locked(folder: Path) -> bool:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _flush_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _file_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise file_error(error, doing) from error


def file_error(error: OSError, doing: str) -> Img2MeshError:
    """The operating system's error as one of ours, in one line that says what to do."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return TransientError(f"cannot {doing}: the disk is full; free some space and submit again, finished stages are kept")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        reason = (error.strerror or "permission denied").lower()
        return InputError(f"cannot {doing}: {reason}; change the permissions or choose another place")
    if error.errno in (errno.ENOTDIR, errno.EEXIST, errno.EISDIR, errno.ENAMETOOLONG, errno.ELOOP, errno.EINVAL):
        return InputError(f"cannot {doing}: {(error.strerror or str(error)).lower()}; choose another place")
    return TransientError(f"cannot {doing}: {(error.strerror or str(error)).lower()}; submit again once the storage works")


def is_full_disk(error: BaseException) -> bool:
    """Whether the error, or what it came from, is a full disk: trying again soon is of no use."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError) and seen.errno in (errno.ENOSPC, errno.EDQUOT):
            return True
        seen = seen.__cause__
    return False
