"""A stage gives the same publication in this process, as a subprocess and from its own command line."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from flows.launch import environment, in_container, in_process, in_subprocess, launcher
from img2mesh import presets
from img2mesh.errors import InputError
from img2mesh.manifests import Blob, PreparedImage, SourceImage
from img2mesh.stage import Stage, canonical_json
from img2mesh.storage import Store, open_store
from stages import prepare
from tests.command import picture


def source_of(folder: Path, store: Store) -> SourceImage:
    data = picture(folder / "owl.png", side_px=96).read_bytes()
    return SourceImage(name="owl.png", image=store.put_blob(data, "image/png"))


def test_the_same_publication_wherever_a_stage_runs(tmp_path: Path) -> None:
    params = prepare.Params.of(presets.get("compact"), seed=0)
    stores = [open_store(str(tmp_path / name)) for name in ("here", "there", "alone")]
    source, *_ = (source_of(tmp_path, store) for store in stores)
    here = in_process(prepare.STAGE, source, params, stores[0])
    there = in_subprocess(prepare.STAGE, source, params, stores[1])
    (tmp_path / "in.json").write_bytes(canonical_json(source))
    files = ["--in", str(tmp_path / "in.json"), "--out", str(tmp_path / "out.json"), "--store", stores[2].uri]
    subprocess.run([sys.executable, "-m", "stages.prepare", *files], cwd=tmp_path, env=environment(), check=True)
    assert (here.cached, there.cached) == (False, False)
    assert here.outputs == there.outputs == PreparedImage.model_validate_json((tmp_path / "out.json").read_bytes())
    assert here.publication.key == there.publication.key
    keys = [sorted(key for key in store.list() if key.startswith(("blobs/", "manifests/"))) for store in stores]
    assert keys[0] == keys[1] == keys[2]
    assert in_subprocess(prepare.STAGE, source, params, stores[1]).cached


def test_a_container_is_told_no_secret_on_its_command_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An engine that notes what it is given, and computes nothing."""
    engine = tmp_path / "engine"
    engine.write_text(f'#!/bin/sh\necho "$@" > {tmp_path}/said\nexit 2\n')
    engine.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("IMG2MESH_WORK_SECRET_ACCESS_KEY", "planted")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:1")
    monkeypatch.setattr(Stage, "lookup", lambda *_: None)
    params = prepare.Params.of(presets.get("compact"), seed=0)
    source = SourceImage(name="a", image=Blob(sha256="0" * 64, size_bytes=1, media_type="x/y"))
    with pytest.raises(InputError):
        in_container("engine", prepare.STAGE, source, params, open_store("s3://tests/work"))
    said = (tmp_path / "said").read_text()
    assert "--env=AWS_SECRET_ACCESS_KEY --env=IMG2MESH_WORK_SECRET_ACCESS_KEY" in said
    assert "planted" not in said
    assert "--network=none" not in said
    local = open_store(str(tmp_path / "store"))
    local.write("a", b"")
    with pytest.raises(InputError):
        in_container("engine", prepare.STAGE, source, params, local)
    said = (tmp_path / "said").read_text()
    assert "--network=none" in said
    assert "AWS_" not in said


@pytest.mark.parametrize(
    ("how", "reason"), [("cloud", "is unknown"), ("pool", "needs a Prefect server"), ("docker", "there is no program docker")]
)
def test_a_launch_that_cannot_be_is_one_line(how: str, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(InputError, match=reason):
        launcher(how)


def test_an_error_keeps_its_class_and_its_message(tmp_path: Path) -> None:
    store = open_store(str(tmp_path))
    source = SourceImage(name="text.png", image=store.put_blob(b"no picture", "image/png"))
    params = prepare.Params.of(presets.get("compact"), seed=0)
    messages = []
    for launch in (in_process, in_subprocess):
        with pytest.raises(InputError) as caught:
            launch(prepare.STAGE, source, params, store)
        messages.append(str(caught.value))
    assert messages[0] == messages[1]
