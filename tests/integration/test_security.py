"""A planted secret turns up nowhere, and what strangers send stays within its limits."""

import json
import sqlite3
from collections.abc import Mapping
from pathlib import Path

import pytest

from img2mesh.storage import open_store
from tests.command import picture, run


@pytest.mark.slow
@pytest.mark.s3
def test_a_secret_is_in_no_manifest_log_artifact_or_message(
    s3: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    secret = s3["AWS_SECRET_ACCESS_KEY"].encode()
    picture(tmp_path / "in/owl.png")
    picture(tmp_path / "in/bug.png", 7)
    (tmp_path / "in/text.png").write_text("no picture")
    places = ("--assets", "s3://tests/secret")
    ended = run("submit", "in", *places, "--json", cwd=tmp_path, settings=dict(s3))
    assert (ended.code, ended.report()["published"]) == (1, 1), ended.err
    said = [ended.out.encode(), ended.err.encode()]
    for command in (
        ("verify", *places),
        ("doctor", "--store", "s3://tests/secret/.store"),
        ("gc", *places),
        ("show", "in/owl", *places),
    ):
        one = run(*command, cwd=tmp_path, settings=dict(s3))
        said += [one.out.encode(), one.err.encode()]
    store = open_store("s3://tests/secret")
    stored = {key: store.read(key) or b"" for key in store.list()}
    assert any(key.startswith(".store/runs/") for key in stored)
    files = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    (database,) = (path for path in files if path.name == "prefect.db")
    with sqlite3.connect(database) as connection:
        rows = connection.execute("SELECT key, data FROM artifact").fetchall()
        dumped = "\n".join(connection.iterdump()).encode()
    links = [json.loads(json.loads(data)) if key == "images-in" else None for key, data in rows]
    assert any(link and "X-Amz-Expires=604800" in str(link) for link in links)
    everything = [*said, *stored.values(), *files.values(), dumped]
    assert [data[:80] for data in everything if secret in data] == []
