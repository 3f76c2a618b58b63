"""The published decoder's training as a person starts it, with small networks in the published layout."""

import json
from collections.abc import Mapping
from pathlib import Path

import pytest
import trimesh

from flows.models import pull
from img2mesh import presets
from img2mesh.models.home import weights_path
from img2mesh.storage import open_store
from tests.command import start
from tests.lpips_layout import write_lpips
from tests.published_layout import write_checkpoint


def run_training(tmp_path: Path, s3: Mapping[str, str], *options: str, command: str = "decoder") -> tuple[int, str]:
    settings = {
        **s3,
        "IMG2MESH_WEIGHTS": str(tmp_path / "weights"),
        "PYTHONPATH": f"{Path(__file__).parents[2]}:{tmp_path}",
        "OMP_NUM_THREADS": "1",
    }
    process = start("train", command, "--preset", "wonder3d", *options, small=False, cwd=tmp_path, settings=settings)
    out, err = process.communicate(timeout=1500)
    return process.returncode, out + err


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_objects_of_a_bucket_become_views_and_views_a_decoder_in_two_processes(
    s3: Mapping[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {**s3, "IMG2MESH_WEIGHTS": str(tmp_path / "weights")}.items():
        monkeypatch.setenv(name, value)
    write_checkpoint(tmp_path / "checkpoint")
    pull("wonder3d", source=str(tmp_path / "checkpoint"), target=None, accepted=True, say=lambda _: None)
    bucket = open_store("s3://tests/objects")
    for name, side in (("box", 1.0), ("plank", 0.2), ("pole", 0.3)):
        assert bucket.create(f"{name}.glb", trimesh.creation.box((1.0, 1.0, side)).export(file_type="glb"))

    options = ("--objects", "s3://tests/objects", "--steps", "1", "--batch", "2", "--processes", "2", "--precision", "fp32")
    write_lpips(tmp_path)
    code, said = run_training(tmp_path, s3, *options)
    assert code == 0, said
    assert "3 files in runs/decoder/objects" in said
    assert "3 objects in runs/decoder/views" in said
    assert said.count("weights: runs/decoder/decoder.safetensors") == 1
    settings = json.loads((tmp_path / "runs" / "decoder" / "settings.json").read_text())
    assert (settings["loop"]["draws"], settings["loop"]["lr"], settings["size_px"]) == (2, 1e-5, 256)
    assert (tmp_path / "runs" / "decoder" / "decoder.safetensors").is_file()
    code, said = run_training(tmp_path, s3, "--objects", "s3://tests/nothing", "--batch", "2")
    assert (code, "nothing below s3://tests/nothing" in said) == (2, True)
    code, said = run_training(tmp_path, s3, "--objects", "s3://tests/objects", "--batch", "3", "--processes", "2")
    assert (code, "--batch 3 cannot be shared out among 2 processes" in said) == (2, True)

    before = presets.get("wonder3d").decoder.sha256
    code, said = run_training(tmp_path, s3, "runs/decoder", command="ship")
    assert (code, said) == (0, "shipped decoder\n")
    trained = presets.get("wonder3d").decoder
    assert trained.sha256 != before
    assert weights_path(trained.name).read_bytes() == (tmp_path / "runs" / "decoder" / "decoder.safetensors").read_bytes()
