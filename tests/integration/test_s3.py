"""The store, the assets and the command line over a real S3 server."""

import threading
from collections.abc import Mapping
from pathlib import Path

import pytest

from img2mesh.errors import ArtifactError, InputError, TransientError
from img2mesh.manifests import Blob
from img2mesh.storage import Store, blob_key, open_store
from tests.command import picture, run

pytestmark = pytest.mark.s3


@pytest.fixture
def store(s3: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Store:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    return open_store(f"s3://tests/{request.node.name}")


def test_objects_come_and_go(store: Store) -> None:
    assert (store.read("a/b"), store.size("a/b"), list(store.list())) == (None, None, [])
    assert store.create("a/b", b"first")
    assert not store.create("a/b", b"second")
    assert (store.read("a/b"), store.size("a/b")) == (b"first", 5)
    store.write("a/b", b"third")
    store.write("a c/ü", b"")
    assert (store.read("a/b"), store.read("a c/ü")) == (b"third", b"")
    assert (list(store.list("a/")), list(store.list())) == (["a/b"], ["a c/ü", "a/b"])
    store.delete("a/b")
    store.delete("a/b")
    assert store.read("a/b") is None


def test_blobs_are_verified_and_mended(store: Store) -> None:
    blob = store.put_blob(b"hello", "text/plain")
    assert store.put_blob(b"hello", "text/plain") == blob
    assert (store.get_blob(blob), store.has_blob(blob)) == (b"hello", True)
    store.write(blob_key(blob), b"hellO")
    with pytest.raises(ArtifactError, match="SHA-256"):
        store.get_blob(blob)
    store.put_blob(b"hello", "text/plain")
    assert store.get_blob(blob) == b"hello"
    with pytest.raises(ArtifactError, match="missing"):
        store.get_blob(Blob(sha256="0" * 64, size_bytes=1, media_type="x/y"))


def test_exactly_one_of_several_creators_wins(store: Store) -> None:
    stores = [open_store(store.uri) for _ in range(4)]
    wins: list[int] = []

    def race(number: int) -> None:
        if stores[number].create("race", str(number).encode()):
            wins.append(number)

    threads = [threading.Thread(target=race, args=(number,)) for number in range(len(stores))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(wins) == 1
    assert store.read("race") == str(wins[0]).encode()


def test_errors_say_what_to_do(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InputError, match="bucket 'nowhere'"):
        list(open_store("s3://nowhere/x").list())
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "wrong")
    with pytest.raises(InputError, match="check credentials"):
        open_store(store.uri).write("a", b"")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    with pytest.raises(TransientError, match="AWS_ENDPOINT_URL"):
        open_store(store.uri).read("a")


def test_a_batch_from_bucket_to_bucket(s3: Mapping[str, str], store: Store, tmp_path: Path) -> None:
    inbox = open_store("s3://tests/pictures/birds")
    inbox.write("owl.png", picture(tmp_path / "owl.png", 1).read_bytes())
    inbox.write("deeper/cat.png", picture(tmp_path / "cat.png", 2).read_bytes())
    inbox.write("text.png", b"no picture")
    inbox.write("notes.txt", b"")
    settings = {**s3, "SMALL_PLAIN": "1"}
    command = ("submit", inbox.uri, "--assets", store.uri, "--json")
    first = run(*command, cwd=tmp_path, settings=settings)
    assert first.code == 2, first.err
    report = first.report()
    assert (report["batch"], report["published"], report["refused"], report["ignored_files"]) == ("birds", 2, 1, 1)
    before = {key: store.read(key) for key in store.list("birds/")}
    assert set(before) == {"birds/batch.json"} | {
        f"birds/{name}/{file}" for name in ("cat", "owl") for file in ("asset.json", "mesh.glb", "mesh.obj", "preview.png")
    }
    second = run(*command, cwd=tmp_path, settings=settings)
    assert (second.code, second.report()["stages_computed"]) == (2, 0)
    assert {key: store.read(key) for key in store.list("birds/")} == before
    assert run("verify", "--assets", store.uri, cwd=tmp_path, settings=settings).code == 0
    mesh = before["birds/owl/mesh.glb"]
    assert mesh is not None
    store.write("birds/owl/mesh.glb", mesh[:-1] + b"?")
    damaged = run("verify", "--assets", store.uri, cwd=tmp_path, settings=settings)
    assert damaged.code == 3
    assert "birds/owl/mesh.glb" in damaged.err
    assert run(*command, cwd=tmp_path, settings=settings).code == 2
    assert {key: store.read(key) for key in store.list("birds/")} == before


def test_files_and_buckets_mix(s3: Mapping[str, str], store: Store, tmp_path: Path) -> None:
    picture(tmp_path / "in/owl.png")
    command = ("submit", "in", "--store", f"{store.uri}/store", "--json")
    ended = run(*command, cwd=tmp_path, settings={**s3, "SMALL_PLAIN": "1"})
    assert (ended.code, ended.report()["published"]) == (0, 1), ended.err
    assert (tmp_path / "assets/in/owl/mesh.glb").is_file()
    assert not (tmp_path / "assets/.store").exists()
    assert run("verify", "--store", f"{store.uri}/store", cwd=tmp_path, settings=dict(s3)).code == 0


def test_the_doctor_probes_the_store(s3: Mapping[str, str], store: Store, tmp_path: Path) -> None:
    ended = run("doctor", "--store", store.uri, "--json", small=False, cwd=tmp_path, settings=dict(s3))
    findings = {row["what"]: row for row in ended.report()["findings"]}
    assert (findings["store"]["ok"], list(store.list())) == (True, [])
