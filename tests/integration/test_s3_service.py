"""What a service needs of a real S3 server: pages, parts, updates without loss, roles, links that expire, patience."""

import hashlib
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from botocore.exceptions import ClientError

from flows.assets import AssetDocument, BatchDocument, Row, open_assets
from flows.gc import collect_garbage
from img2mesh import s3 as implementation
from img2mesh.errors import InputError, TransientError
from img2mesh.s3 import S3Store
from img2mesh.storage import blob_key, open_store
from tests.command import picture, run
from tests.flaky_server import Fault, flaky
from tests.integration.conftest import SHIPPED

pytestmark = pytest.mark.s3
EXPIRE_ALL = {"Rules": [{"ID": "all", "Status": "Enabled", "Filter": {"Prefix": ""}, "Expiration": {"Days": 1}}]}


@pytest.fixture
def store(s3: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> S3Store:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    opened = open_store(f"s3://tests/{request.node.name}")
    assert isinstance(opened, S3Store)
    return opened


def test_a_listing_of_several_pages_is_whole_and_in_order(store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    keys = sorted(f"{folder}/{number}" for folder in ("a", "a-b", "ab") for number in range(4))
    for key in keys:
        store.write(key, key.encode())
    monkeypatch.setattr(implementation, "PAGE_KEYS", 5)
    assert list(store.list()) == keys
    assert [(entry.key, entry.size_bytes) for entry in store.entries("a/")] == [(f"a/{n}", 3) for n in range(4)]


def test_large_objects_go_in_parts_once_and_leave_nothing_when_they_fail(
    store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(implementation, "MULTIPART_BYTES", 5 * 1024**2)
    monkeypatch.setattr(implementation, "PART_BYTES", 5 * 1024**2)
    data = bytes(range(256)) * (11 * 4096)
    blob = store.put_blob(data, "x/y")
    assert (store.get_blob(blob) == data, store.create(blob_key(blob), data[:-1])) == (True, False)
    assert store.get_blob(blob) == data

    def fail(*_: object) -> None:
        raise TransientError("the network is gone")

    with monkeypatch.context() as patch:
        patch.setattr(S3Store, "_put_part", fail)
        with pytest.raises(TransientError, match="gone"):
            store.create("another", data)
    assert store.read("another") is None
    uploads = store._client.list_multipart_uploads(Bucket="tests")
    assert uploads.get("Uploads", []) == []
    store._client.create_multipart_upload(**store._place("left by a killed process"))
    assert (collect_garbage(store, older_s=3600, delete=True).uploads, store.abort_uploads(-1)) == (0, 1)


def test_no_update_is_lost(store: S3Store) -> None:
    def add(name: int) -> None:
        mine = open_store(store.uri)
        for _ in range(5):
            mine.update("counted", lambda before: (before or b"") + f"{name}".encode())

    threads = [threading.Thread(target=add, args=(name,)) for name in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted((store.read("counted") or b"").decode()) == sorted("012" * 5)


def test_two_reports_of_one_batch_at_once_keep_all_rows(store: S3Store) -> None:
    def report(name: str) -> None:
        assets = open_assets(store.uri)
        assets.objects.write(f"birds/{name}/asset.json", b"{}")
        rows = (Row(name=name, file=name, status="published"),)
        assets.write_batch(BatchDocument(name="birds", tool_version="0", preset="tiny", seed=0, rows=rows))

    names = [f"bird-{number}" for number in range(6)]
    threads = [threading.Thread(target=report, args=(name,)) for name in names]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    document = open_assets(store.uri).batch("birds")
    assert document is not None
    assert [row.name for row in document.rows] == names


def test_two_who_publish_other_pictures_under_one_name_leave_one_whole_asset(store: S3Store) -> None:
    work = open_store(f"{store.uri}/work")

    def document(owner: int) -> AssetDocument:
        files = {name: work.put_blob(f"{name} of {owner}".encode(), "x/y") for name in ("mesh.glb", "mesh.obj", "preview.png")}
        nothing: dict[str, Any] = {"tool_version": "0", "preset": "tiny", "seed": owner, "input_file": "owl.png", "stages": ()}
        scores: dict[str, Any] = {"matting": "alpha", "matting_confidence": 1.0, "seconds": 0.0, "scores": {}}
        return AssetDocument(name="owl", batch="birds", input=files["mesh.glb"], files=files, **nothing, **scores).sealed()

    def publish(owner: int) -> None:
        assets, mine = open_assets(store.uri), document(owner)
        for _ in range(3):
            assets.publish(mine, work)

    threads = [threading.Thread(target=publish, args=(owner,)) for owner in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assets = open_assets(store.uri)
    assert list(assets.rotten_files(assets.document("birds", "owl"))) == []
    assert list(store.list(".claims/")) == []


def test_roles_open_their_own_places_only(
    s3: Mapping[str, str], store: S3Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    secret = s3["AWS_SECRET_ACCESS_KEY"]
    roles = ("inbox", "work", "assets")
    file = tmp_path / "credentials"
    file.write_text("".join(f"[{r}]\naws_access_key_id = {r}\naws_secret_access_key = {secret}\n" for r in roles))
    file.chmod(0o600)
    open_store("s3://tests/inbox/roles").write("owl.png", picture(tmp_path / "owl.png").read_bytes())
    monkeypatch.delenv("AWS_ACCESS_KEY_ID")
    monkeypatch.delenv("AWS_SECRET_ACCESS_KEY")
    settings = {"AWS_SHARED_CREDENTIALS_FILE": str(file), **{f"IMG2MESH_{role.upper()}_PROFILE": role for role in roles}}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(InputError, match="check credentials"):
        open_store("s3://tests/work", "inbox").write("cat.png", b"")
    with pytest.raises(InputError, match="check credentials"):
        open_store("s3://tests-assets", "work").write("a", b"")
    with pytest.raises(InputError, match="check credentials"):
        open_store("s3://tests/work", "assets").read("a")
    places = ("--assets", "s3://tests-assets/roles", "--store", "s3://tests/work/roles")
    environment = {**s3, **settings, "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "SMALL_PLAIN": "1"}
    for inbox in ("s3://tests/inbox/roles", "s3://tests/inbox"):
        ended = run("submit", inbox, *places, "--json", cwd=tmp_path, settings=environment)
        assert (ended.code, ended.report()["published"]) == (0, 1), ended.err


def test_a_role_s_own_variables_come_before_all_others(
    s3: Mapping[str, str], store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("IMG2MESH_WORK_ACCESS_KEY_ID", "work")
    monkeypatch.setenv("IMG2MESH_WORK_SECRET_ACCESS_KEY", s3["AWS_SECRET_ACCESS_KEY"])
    open_store("s3://tests/work", "work").write("mine", b"")
    with pytest.raises(InputError, match="check credentials"):
        open_store("s3://tests-assets", "work").read("a")


def test_the_assets_role_can_publish_anew_and_remove_no_version(
    s3: Mapping[str, str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in {**s3, "SMALL_PLAIN": "1"}.items():
        monkeypatch.setenv(name, value)
    bucket = {"Bucket": "tests-assets"}
    admin = open_store("s3://tests-assets")._client  # type: ignore[attr-defined]
    admin.put_bucket_versioning(**bucket, VersioningConfiguration={"Status": "Enabled"})
    monkeypatch.setenv("IMG2MESH_ASSETS_ACCESS_KEY_ID", "assets")
    monkeypatch.setenv("IMG2MESH_ASSETS_SECRET_ACCESS_KEY", s3["AWS_SECRET_ACCESS_KEY"])
    places = ("--assets", "s3://tests-assets/kept", "--store", "s3://tests/work/kept")
    documents = []
    for shade in (10, 20):
        picture(tmp_path / "in/owl.png", shade)
        ended = run("submit", "in", *places, "--json", cwd=tmp_path, settings={**s3, "SMALL_PLAIN": "1"})
        assert (ended.code, ended.report()["published"]) == (0, 1), ended.err
        documents.append(open_assets("s3://tests-assets/kept").document("in", "owl"))
    assets = open_store("s3://tests-assets/kept", "assets")
    role = assets._client  # type: ignore[attr-defined]
    place = {**bucket, "Key": "kept/in/owl/mesh.glb"}
    assets.delete("in/owl/mesh.glb")
    assert assets.read("in/owl/mesh.glb") is None
    (marker,) = (one["VersionId"] for one in admin.list_object_versions(**bucket, Prefix=place["Key"])["DeleteMarkers"])
    versions = [one["VersionId"] for one in role.list_object_versions(**bucket, Prefix=place["Key"])["Versions"]]
    forbidden = [
        *(lambda one=one: role.delete_object(**place, VersionId=one) for one in (*versions, marker)),
        lambda: role.put_bucket_versioning(**bucket, VersioningConfiguration={"Status": "Suspended"}),
        lambda: role.delete_bucket(**bucket),
        lambda: role.put_bucket_policy(**bucket, Policy=(SHIPPED / "assets-policy.json").read_text()),
        lambda: role.put_bucket_lifecycle_configuration(**bucket, LifecycleConfiguration=EXPIRE_ALL),
    ]
    for attempt in forbidden:
        with pytest.raises(ClientError, match="AccessDenied"):
            attempt()
    kept = {hashlib.sha256(role.get_object(**place, VersionId=one)["Body"].read()).hexdigest() for one in versions}
    assert kept == {document.files["mesh.glb"].sha256 for document in documents}


def test_a_link_opens_the_object_until_it_expires(store: S3Store) -> None:
    store.write("mesh.glb", b"glb")
    link = store.link("mesh.glb", 2)
    with urllib.request.urlopen(link, timeout=10) as answer:
        assert answer.read() == b"glb"
    time.sleep(3)
    with pytest.raises(urllib.error.HTTPError) as caught:
        urllib.request.urlopen(link, timeout=10)
    assert caught.value.code == 403
    assert "X-Amz-Expires=604800" in store.link("mesh.glb", 10**9)


def test_a_server_that_is_busy_slow_or_hangs_up_is_asked_again(
    s3: Mapping[str, str], store: S3Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    faults = [Fault(status=503), Fault(cut=True), Fault(pause_s=0.3), Fault(status=500)]
    seen: list[str] = []

    def every_other(method: str, path: str) -> Fault:
        seen.append(method)
        return faults[len(seen) // 2 % len(faults)] if len(seen) % 2 else Fault()

    with flaky(s3["AWS_ENDPOINT_URL"], every_other) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        unsteady = open_store(store.uri)
        blobs = [unsteady.put_blob(f"{number}".encode() * 1000, "x/y") for number in range(4)]
        assert [unsteady.get_blob(blob) for blob in blobs] == [f"{number}".encode() * 1000 for number in range(4)]
        assert len(list(unsteady.list("blobs/"))) == 4
    assert len(seen) > 9


def test_patience_ends(s3: Mapping[str, str], store: S3Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(implementation, "PATIENT_PAUSES_S", (0.01, 0.01))
    with flaky(s3["AWS_ENDPOINT_URL"], lambda method, path: Fault(status=503)) as server:
        monkeypatch.setenv("AWS_ENDPOINT_URL", server.url)
        with pytest.raises(TransientError, match="answers 503"):
            open_store(store.uri).read("a")
        assert len(server.requests) <= 5
