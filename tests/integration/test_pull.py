"""`img2mesh models pull` as a person runs it, from a mirror in a bucket."""

from collections.abc import Mapping
from pathlib import Path

import pytest

from img2mesh.storage import open_store
from tests.command import picture, run
from tests.published_layout import write_checkpoint


def test_without_weights_submit_says_what_to_run_in_one_line(tmp_path: Path) -> None:
    picture(tmp_path / "owl.png")
    settings = {"IMG2MESH_WEIGHTS": str(tmp_path / "weights")}
    ended = run("submit", "owl.png", "--preset", "wonder3d", small=False, cwd=tmp_path, settings=settings)
    assert ended.code == 2
    assert ended.err == ("img2mesh: preset wonder3d needs the published checkpoints: run `img2mesh models pull wonder3d`\n")


def test_the_licences_are_shown_and_must_be_accepted(tmp_path: Path) -> None:
    settings = {"IMG2MESH_WEIGHTS": str(tmp_path / "weights")}
    ended = run("models", "pull", "wonder3d", small=False, cwd=tmp_path, settings=settings)
    assert ended.code == 2
    assert "AGPL-3.0" in ended.out
    assert ended.err.startswith("img2mesh: nothing was fetched; to accept the licences above")
    assert not (tmp_path / "weights").exists()


@pytest.mark.s3
def test_a_mirror_in_a_bucket_is_pulled(s3: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    write_checkpoint(tmp_path / "checkpoint")
    mirror = open_store("s3://tests/mirror")
    for path in (tmp_path / "checkpoint").rglob("*.*"):
        mirror.write(path.relative_to(tmp_path / "checkpoint").as_posix(), path.read_bytes())
    weights = tmp_path / "weights"
    options = ["--from", "s3://tests/mirror", "--to", weights, "--accept-licence"]
    ended = run("models", "pull", "wonder3d", *options, small=False, cwd=tmp_path)
    assert ended.code == 0, ended.err
    assert f"set IMG2MESH_WEIGHTS={weights}" in ended.out
    listed = run("presets", "--json", small=False, cwd=tmp_path, settings={"IMG2MESH_WEIGHTS": str(weights)})
    assert {row["name"]: row["usable"] for row in listed.report()["presets"]}["wonder3d"] == "yes"
