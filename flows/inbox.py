"""What a person submits: files, folders and `s3://bucket/prefix` become named sources with their bytes in the store."""

import contextlib
import hashlib
import mimetypes
import os
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from urllib.parse import unquote, urlparse

from img2mesh.errors import Img2MeshError, InputError
from img2mesh.manifests import SourceImage
from img2mesh.storage import Store, open_store

QUARANTINE = "quarantine"
# A file that has changed so lately may still be on its way: it is left where it is until the next scan.
SETTLED_S = 60.0
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".avif", ".tif", ".tiff", ".bmp"})
MAX_SOURCE_BYTES = 512 * 1024**2
_MAX_NAME_BYTES = 120


@dataclass(frozen=True, kw_only=True)
class Item:
    """One submitted picture, or what stands in its place: exactly one of `source` and `refusal` is set.

    Args:
        name: Its folder among the assets of the batch; unique there.
        file: Where it came from, as a person writes it.
    """

    name: str
    file: str
    source: SourceImage | None = None
    refusal: Img2MeshError | None = None


@dataclass(frozen=True, kw_only=True)
class Inbox:
    """All that was submitted, in order of name; `ignored` counts the other files in the folders."""

    items: tuple[Item, ...]
    ignored: int


@dataclass(frozen=True, kw_only=True)
class _Found:
    place: str
    shown: str
    file_name: str
    read: Callable[[], bytes]


def collect(paths: Sequence[str], store: Store, *, exclude: Iterable[str] = ()) -> Inbox:
    """Read every picture and put it into the store as a blob.

    A folder is searched with its sub-folders, except hidden ones; a file that is named itself is taken whatever its suffix.

    Args:
        paths: Files, folders, `file:///...` or `s3://bucket/prefix`.
        store: Where the bytes go.
        exclude: Folders (path or `file://`) that are not searched, such as the assets themselves.

    Raises:
        InputError: There is not one picture, and nothing else to report.
        Img2MeshError: The store refuses the bytes.
    """
    hidden = frozenset(folder.resolve() for uri in exclude if (folder := local_path(uri)) is not None)
    found: dict[str, _Found] = {}
    refused: list[tuple[str, Img2MeshError]] = []
    ignored = 0
    for path in paths:
        try:
            more, skipped = _search(path, hidden)
        except Img2MeshError as error:
            refused.append((path, error))
            continue
        ignored += skipped
        found |= {one.place: one for one in more}
    if not found and len(refused) == 1:
        raise refused[0][1]
    with ThreadPoolExecutor(store.calls_at_once) as pool:
        items = list(pool.map(lambda one: _take(one, store), found.values()))
    items += [Item(name=safe_name(_last_part(path)), file=_printable(path), refusal=error) for path, error in refused]
    return Inbox(items=_with_distinct_names(items), ignored=ignored)


def quarantine_refused(paths: Sequence[str], items: Iterable[Item]) -> list[str]:
    """Move refused pictures to `quarantine/` in their inbox, each with `<file>.reason.txt` beside it; returns where they are.

    A file that is no longer what was refused stays where it is, and so does one that has changed within the last minute.

    Args:
        paths: The inboxes: folders or `s3://bucket/prefix`.
        items: The refused pictures.

    Raises:
        Img2MeshError: The inbox cannot be written.
    """
    moved: list[str] = []
    refused = {item.file: item for item in items if item.source is not None}
    for path in paths:
        inbox = path.rstrip("/")
        store, prefix = _inbox_store(inbox)
        now_s = store.clock_s() if refused else 0.0
        for entry in list(store.entries(prefix)):
            item = refused.get(_shown(inbox, entry.key, prefix))
            if item is None or now_s - entry.modified_s < SETTLED_S:
                continue
            place = _quarantine_one(store, prefix, entry.key, item)
            moved += [place] if place else []
    return moved


def _inbox_store(inbox: str) -> tuple[Store, str]:
    if not inbox.startswith("s3://"):
        return open_store(inbox, "inbox"), ""
    bucket, _, prefix = inbox.removeprefix("s3://").partition("/")
    return open_store(f"s3://{bucket}", "inbox"), f"{prefix}/" if prefix else ""


def _shown(inbox: str, key: str, prefix: str) -> str:
    """How `collect` names the file to a person."""
    return _printable(f"{inbox}/{key.removeprefix(prefix)}")


def _quarantine_one(store: Store, prefix: str, key: str, item: Item) -> str | None:
    data = store.read(key)
    assert item.source is not None
    if data is None or hashlib.sha256(data).hexdigest() != item.source.image.sha256:
        return None
    stem, suffix = safe_name(PurePosixPath(key).stem), PurePosixPath(key).suffix
    place = f"{prefix}{QUARANTINE}/{stem}-{item.source.image.sha256[:8]}{suffix}"
    store.write(f"{place}.reason.txt", f"{' '.join(str(item.refusal).split())}\n".encode())
    store.create(place, data)
    store.delete(key)
    return place


def local_path(uri: str) -> Path | None:
    """The absolute path of a bare path or a `file://` URI; None for anything else."""
    if uri.startswith("file://"):
        return Path(unquote(urlparse(uri).path)).absolute()
    return None if "://" in uri else Path(uri).expanduser().absolute()


def absolute_uri(uri: str) -> str:
    """The same place for a process that runs in another folder."""
    path = local_path(uri)
    return uri if path is None else str(path)


def batch_name(paths: Sequence[str]) -> str:
    """The default name of a batch: that of the only folder or prefix submitted, or else `batch`."""
    if len(paths) == 1:
        folder = local_path(paths[0])
        if folder is None:
            return safe_name(_last_part(paths[0]), otherwise="batch")
        if folder.is_dir():
            return safe_name(folder.resolve().name, otherwise="batch")
    return "batch"


def safe_name(text: str, *, otherwise: str = "image") -> str:
    """The text as one harmless folder name.

    Unicode stays, composed (NFC). Separators, control characters and what shells or Windows reserve become `-`. There are no
    leading dots or dashes, so that it neither hides, climbs nor reads as an option; at most 120 bytes of UTF-8.
    """
    text = unicodedata.normalize("NFC", text)
    kept = "".join("-" if char in '/\\:*?"<>|' or unicodedata.category(char)[0] == "C" else char for char in text)
    kept = " ".join(kept.split()).lstrip(".- ").rstrip(". ")
    while len(kept.encode()) > _MAX_NAME_BYTES:
        kept = kept[:-1]
    return kept.rstrip(". ") or otherwise


def _search(path: str, hidden: frozenset[Path]) -> tuple[list[_Found], int]:
    if path.startswith("s3://"):
        return _search_bucket(path)
    place = local_path(path)
    if place is None:
        raise InputError(f"{path!r} has an unknown scheme: expected a path, file:///path or s3://bucket/prefix")
    try:
        if place.is_dir():
            return _search_folder(place, path, hidden)
        place.stat()
    except FileNotFoundError as error:
        raise InputError(f"{path}: there is no such file or folder; check the path") from error
    except (OSError, ValueError) as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); check the path and its permissions") from error
    if not place.is_file():
        raise InputError(f"{path}: neither a file nor a folder; expected a picture or a folder of pictures")
    return [_local(place, path)], 0


def _search_folder(folder: Path, path: str, hidden: frozenset[Path]) -> tuple[list[_Found], int]:
    files = sorted(_files(folder, hidden))
    pictures = [file for file in files if file.suffix.lower() in SUFFIXES]
    if not pictures:
        kinds = ", ".join(sorted(SUFFIXES))
        raise InputError(f"{path}: no picture in this folder or below it; expected at least one of {kinds}")
    shown = folder if path.startswith("file://") else Path(path)
    return [_local(file, str(shown / file.relative_to(folder))) for file in pictures], len(files) - len(pictures)


def _files(folder: Path, hidden: frozenset[Path]) -> Iterator[Path]:
    def fail(error: OSError) -> None:
        raise error

    for place, folders, files in os.walk(folder, onerror=fail):
        top = Path(place)
        folders[:] = [
            name
            for name in folders
            if not name.startswith(".") and not (top == folder and name == QUARANTINE) and (top / name).resolve() not in hidden
        ]
        yield from (top / name for name in files if not name.startswith("."))


def _local(place: Path, shown: str) -> _Found:
    def read() -> bytes:
        if place.stat().st_size > MAX_SOURCE_BYTES:
            raise InputError(f"{shown}: larger than {MAX_SOURCE_BYTES // 1024**2} MiB; make the picture smaller")
        return place.read_bytes()

    return _Found(place=str(place.resolve()), shown=shown, file_name=place.name, read=read)


def _search_bucket(uri: str) -> tuple[list[_Found], int]:
    bucket, _, prefix = uri.removeprefix("s3://").partition("/")
    store = open_store(f"s3://{bucket}", "inbox")
    aside = f"{prefix.rstrip('/')}/{QUARANTINE}/".lstrip("/")
    found = list(store.list(f"{prefix.rstrip('/')}/".lstrip("/")))
    if not found:
        # One picture, or what begins with a word: those who may see the folder alone find nothing there.
        with contextlib.suppress(InputError):
            found = list(store.list(prefix))
    keys = [key for key in found if not key.endswith("/") and not key.startswith(aside)]
    pictures = [key for key in keys if key == prefix or PurePosixPath(key).suffix.lower() in SUFFIXES]
    if not pictures:
        raise InputError(f"{uri}: no picture under this prefix; expected at least one of {', '.join(sorted(SUFFIXES))}")
    return [_remote(store, key) for key in pictures], len(keys) - len(pictures)


def _remote(store: Store, key: str) -> _Found:
    shown = f"{store.uri}/{key}"

    def read() -> bytes:
        size = store.size(key)
        if size is None:
            raise InputError(f"{shown}: it has been removed since the prefix was listed; submit again")
        if size > MAX_SOURCE_BYTES:
            raise InputError(f"{shown}: larger than {MAX_SOURCE_BYTES // 1024**2} MiB; make the picture smaller")
        return store.read(key) or b""

    return _Found(place=shown, shown=shown, file_name=PurePosixPath(key).name, read=read)


def _take(found: _Found, store: Store) -> Item:
    name, shown = safe_name(PurePosixPath(found.file_name).stem), _printable(found.shown)
    try:
        data = found.read()
    except Img2MeshError as error:
        return Item(name=name, file=shown, refusal=error)
    except OSError as error:
        refusal = InputError(f"{shown}: cannot be read ({_reason(error)}); check its permissions")
        return Item(name=name, file=shown, refusal=refusal)
    if not data:
        refusal = InputError(f"{shown}: the file is empty (0 bytes); copy it again from where it came")
        return Item(name=name, file=shown, refusal=refusal)
    media_type = mimetypes.guess_type(found.file_name)[0] or "application/octet-stream"
    source = SourceImage(name=_printable(found.file_name), image=store.keep_blob(data, media_type))
    return Item(name=name, file=shown, source=source)


def _with_distinct_names(items: Sequence[Item]) -> tuple[Item, ...]:
    """Two pictures of one stem get their suffix (`owl-png`), failing that their digest, failing that a number."""
    named = [(item.name, item) for item in sorted(items, key=lambda item: item.file)]
    for ending in (_suffix_of, _digest_of):
        count = Counter(name.casefold() for name, _ in named)
        named = [(f"{name}-{ending(item)}" if count[name.casefold()] > 1 else name, item) for name, item in named]
    taken: set[str] = set()
    distinct: list[Item] = []
    for name, item in named:
        free, number = name, 2
        while free.casefold() in taken:
            free, number = f"{name}-{number}", number + 1
        taken.add(free.casefold())
        distinct.append(Item(name=free, file=item.file, source=item.source, refusal=item.refusal))
    return tuple(sorted(distinct, key=lambda item: item.name))


def _suffix_of(item: Item) -> str:
    return PurePosixPath(item.file).suffix.lower().lstrip(".") or "file"


def _digest_of(item: Item) -> str:
    return item.source.image.sha256[:8] if item.source else "unread"


def _printable(text: str) -> str:
    """The text without what is no Unicode: a file name may hold any bytes."""
    return text.encode(errors="replace").decode()


def _last_part(path: str) -> str:
    return PurePosixPath(path.rstrip("/")).name


def _reason(error: Exception) -> str:
    if isinstance(error, OSError):
        return (error.strerror or str(error)).lower()
    return str(error).lower()
