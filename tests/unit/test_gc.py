"""Garbage is what no manifest reaches and is old; everything else stays."""

import os
from pathlib import Path

import pytest

from flows.gc import collect_garbage
from flows.submit import Request, submit
from img2mesh.storage import FileStore, blob_key, open_store
from tests.command import picture, run
from tests.small_cli import in_a_loop, steps

DAY_S = 24 * 3600


@pytest.fixture
def store(tmp_path: Path) -> FileStore:
    """A store after a batch of one picture that was published and one that was refused."""
    picture(tmp_path / "in/owl.png")
    (tmp_path / "in/text.png").write_text("no picture")
    submit(Request.of([str(tmp_path / "in")], assets=str(tmp_path / "assets")), steps(seed=0), run_pending=in_a_loop)
    opened = open_store(str(tmp_path / "assets/.store"))
    assert isinstance(opened, FileStore)
    for key in opened.list():
        grow_old(opened, key)
    return opened


def grow_old(store: FileStore, key: str) -> None:
    path = store.path(key)
    os.utime(path, (path.stat().st_atime - 2 * DAY_S, path.stat().st_mtime - 2 * DAY_S))


def test_only_what_no_manifest_reaches_goes(store: FileStore, tmp_path: Path) -> None:
    before = set(store.list())
    refused = open_store(str(tmp_path / "x")).put_blob(b"no picture", "image/png")
    lost = store.put_blob(b"computed, and killed before it was published", "x/y")
    assert [entry.key for entry in collect_garbage(store, older_s=DAY_S, delete=False).entries] == [blob_key(refused)]
    grow_old(store, blob_key(lost))
    garbage = collect_garbage(store, older_s=DAY_S, delete=True)
    assert {entry.key for entry in garbage.entries} == {blob_key(refused), blob_key(lost)}
    assert set(store.list()) == before - {blob_key(refused)}
    assert run("verify", cwd=tmp_path).code == 0


def test_what_is_young_or_put_again_is_spared(store: FileStore) -> None:
    blob = store.put_blob(b"of a stage at work", "x/y")
    garbage = collect_garbage(store, older_s=DAY_S, delete=True)
    assert (garbage.spared, store.has_blob(blob)) == (1, True)
    grow_old(store, blob_key(blob))
    store.put_blob(b"of a stage at work", "x/y")
    collect_garbage(store, older_s=DAY_S, delete=True)
    assert store.has_blob(blob)


def test_it_deletes_only_when_told_to(store: FileStore, tmp_path: Path) -> None:
    before = set(store.list())
    said = run("gc", cwd=tmp_path)
    assert (said.code, set(store.list())) == (0, before)
    assert "1 objects of 0.0 MB" in said.out
    assert "--delete" in said.out
    done = run("gc", "--delete", "--json", cwd=tmp_path)
    assert set(done.report()["objects"]) == before - set(store.list())
    assert len(done.report()["objects"]) == 1


def test_verify_names_what_no_batch_uses(store: FileStore, tmp_path: Path) -> None:
    blob = store.put_blob(b"unused", "x/y")
    store.write(blob_key(blob), b"rotten")
    ended = run("verify", cwd=tmp_path)
    assert (ended.code, ended.err.splitlines()[0]) == (
        3,
        f"{blob_key(blob)}: does not match its SHA-256; no manifest needs it",
    )
    assert run("verify", "in", cwd=tmp_path).code == 0
