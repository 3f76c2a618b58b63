"""The store over files: one winner, whole objects, verified reads, and errors that say what to do."""

import errno
import multiprocessing
import os
import threading
from pathlib import Path

import pytest

from img2mesh import storage
from img2mesh.errors import ArtifactError, InputError, TransientError
from img2mesh.manifests import Blob
from img2mesh.s3 import S3Store
from img2mesh.storage import FileStore, Scratch, Store, blob_key, is_full_disk, open_store

HELLO = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path / "store"))


def test_a_blob_is_named_by_its_digest_and_comes_back(store: Store) -> None:
    blob = store.put_blob(b"hello", "text/plain")
    assert blob == Blob(sha256=HELLO, size_bytes=5, media_type="text/plain")
    assert store.put_blob(b"hello", "text/plain") == blob
    assert store.get_blob(blob) == b"hello"
    assert list(store.list("blobs/")) == [f"blobs/sha256/{HELLO}"]


@pytest.mark.parametrize("rotten", [b"hellO", b"hell", b""])
def test_a_rotten_blob_is_refused_and_mended_by_putting_it_again(store: Store, rotten: bytes) -> None:
    blob = store.put_blob(b"hello", "text/plain")
    store.write(blob_key(blob), rotten)
    with pytest.raises(ArtifactError, match=HELLO[:12]):
        store.get_blob(blob)
    store.put_blob(b"hello", "text/plain")
    assert store.get_blob(blob) == b"hello"


def test_a_missing_blob_is_an_artifact_error(store: Store) -> None:
    blob = Blob(sha256=HELLO, size_bytes=5, media_type="text/plain")
    assert not store.has_blob(blob)
    with pytest.raises(ArtifactError, match="missing"):
        store.get_blob(blob)


def test_a_manifest_is_created_once(store: Store) -> None:
    assert store.get_manifest("prepare", "k") is None
    assert store.put_manifest("prepare", "k", b"first")
    assert not store.put_manifest("prepare", "k", b"second")
    assert store.get_manifest("prepare", "k") == b"first"


def test_write_replaces_and_delete_removes(store: Store) -> None:
    store.write("runs/a.json", b"1")
    store.write("runs/a.json", b"2")
    assert (store.read("runs/a.json"), store.size("runs/a.json")) == (b"2", 1)
    store.delete("runs/a.json")
    store.delete("runs/a.json")
    assert store.read("runs/a.json") is None


def test_list_knows_prefixes_not_folders_and_hides_hidden_files(store: Store) -> None:
    for key in ("b/one", "b/two/three", "bb/four", "a"):
        store.write(key, b"")
    assert list(store.list("b")) == ["b/one", "b/two/three", "bb/four"]
    assert list(store.list("b/")) == ["b/one", "b/two/three"]
    assert list(store.list()) == ["a", "b/one", "b/two/three", "bb/four"]
    assert list(store.list("nothing/")) == []


@pytest.mark.parametrize("key", ["../up", "a/../../up", "/etc/passwd", "a//b", "", ".", "a/\0"])
def test_keys_do_not_climb(store: Store, key: str) -> None:
    with pytest.raises(InputError):
        store.write(key, b"")


def test_exactly_one_of_many_creators_wins(tmp_path: Path) -> None:
    for attempt in range(20):
        wins: list[int] = []
        barrier = threading.Barrier(8)

        def race(number: int, attempt: int = attempt, wins: list[int] = wins, barrier: threading.Barrier = barrier) -> None:
            mine = open_store(str(tmp_path))
            barrier.wait()
            if mine.create(f"race/{attempt}", str(number).encode()):
                wins.append(number)

        threads = [threading.Thread(target=race, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(wins) == 1
        assert open_store(str(tmp_path)).read(f"race/{attempt}") == str(wins[0]).encode()


def test_a_bare_path_and_a_file_uri_are_the_same_store(tmp_path: Path) -> None:
    folder = tmp_path / "with space"
    open_store(str(folder)).write("a", b"1")
    assert open_store(folder.as_uri()).read("a") == b"1"
    assert isinstance(open_store("s3://bucket/some/prefix"), S3Store)


@pytest.mark.parametrize("uri", ["ftp://host/x", "s3://", "file://otherhost/x", ""])
def test_other_uris_are_refused(uri: str) -> None:
    with pytest.raises(InputError):
        open_store(uri)


@pytest.mark.parametrize(
    ("number", "expected"),
    [(errno.ENOSPC, TransientError), (errno.EACCES, InputError), (errno.EROFS, InputError), (errno.EIO, TransientError)],
)
def test_the_system_s_errors_become_ours_and_nothing_half_written_stays(
    store: FileStore, monkeypatch: pytest.MonkeyPatch, number: int, expected: type[Exception]
) -> None:
    def fail(path: Path, data: bytes) -> None:
        path.write_bytes(data[:1])
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(storage, "write_durably", fail)
    with pytest.raises(expected) as caught:
        store.create("a/b", b"12")
    assert is_full_disk(caught.value) == (number == errno.ENOSPC)
    assert [path for path in store.root.rglob("*") if path.is_file() and path.name != "lock"] == []


def _leave_half_written(root: Path) -> None:
    Scratch(root).path().write_bytes(b"half")
    os._exit(9)


def test_the_next_process_clears_what_a_killed_one_has_left(tmp_path: Path) -> None:
    process = multiprocessing.get_context("fork").Process(target=_leave_half_written, args=(tmp_path,))
    process.start()
    process.join()
    assert [path.read_bytes() for path in tmp_path.glob("*/*")] == [b"half"]
    alive = Scratch(tmp_path)
    alive.path().write_bytes(b"mine")
    assert [path.read_bytes() for path in tmp_path.glob("*/*")] == [b"mine"]
    Scratch(tmp_path).path()
    assert [path.read_bytes() for path in tmp_path.glob("*/*")] == [b"mine"]


def test_a_store_that_is_only_read_writes_nothing(tmp_path: Path) -> None:
    store = open_store(str(tmp_path / "store"))
    assert (store.read("a"), list(store.list()), store.size("b/c")) == (None, [], None)
    assert not (tmp_path / "store").exists()
