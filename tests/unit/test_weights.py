"""Weights files: pinned, refused when they differ, and shipped with their records."""

from pathlib import Path

import pytest
import torch

from img2mesh import presets
from img2mesh.errors import ArtifactError, InputError
from img2mesh.models.checkpoint import SHIPPED, digest, load_weights, read_weights, save_weights
from img2mesh.training.shipping import ship_run


def test_shipped_weights_are_the_pinned_ones() -> None:
    preset = presets.compact()
    for reference in (preset.autoencoder, preset.generator, preset.decoder):
        assert digest(SHIPPED / f"{reference.name}.safetensors") == reference.sha256


def test_shipped_weights_stay_under_64_megabytes() -> None:
    assert sum(path.stat().st_size for path in SHIPPED.glob("*.safetensors")) <= 64e6


def test_other_weights_than_the_pinned_are_refused() -> None:
    with pytest.raises(ArtifactError, match=r"have digest .* expected 000000000000: reinstall"):
        load_weights("vae", "0" * 64)
    with pytest.raises(ArtifactError, match="are missing"):
        load_weights("no-such", "0" * 64)


def test_weights_round_trip_with_their_configuration(tmp_path: Path) -> None:
    state = {"layer.weight": torch.tensor([1.0, -0.5, 0.25])}
    save_weights(tmp_path / "a.safetensors", state, {"channels": [3]})
    loaded, config = read_weights(tmp_path / "a.safetensors")
    assert torch.equal(loaded["layer.weight"], state["layer.weight"])
    assert config == {"channels": [3]}


def test_shipping_pins_the_digest_and_keeps_the_records(tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "weights"
    run.mkdir()
    target.mkdir()
    save_weights(run / "vae.safetensors", {"a": torch.ones(2)}, {})
    for name in ("checkpoint.safetensors", "settings.json", "log.jsonl"):
        (run / name).write_text("{}\n")
    assert ship_run(run, target) == "vae"
    assert (target / "SHA256SUMS").read_text() == f"{digest(run / 'vae.safetensors')}  vae.safetensors\n"
    assert (target / "training" / "vae.log.jsonl").read_text() == "{}\n"


def test_of_a_first_guess_the_records_alone_are_shipped(tmp_path: Path) -> None:
    run, target = tmp_path / "run", tmp_path / "weights"
    run.mkdir()
    target.mkdir()
    save_weights(run / "regressor.safetensors", {"a": torch.ones(2)}, {})
    for name in ("shrunk.safetensors", "settings.json"):
        (run / name).write_text("{}\n")
    assert ship_run(run, target) == "regressor"
    assert not list(target.glob("*.safetensors"))
    assert (target / "training" / "regressor.settings.json").is_file()


def test_shipping_an_unfinished_run_says_what_to_do(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="give the folder of a finished run"):
        ship_run(tmp_path)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(InputError, match="choose one of compact, tiny, wonder3d"):
        presets.get("huge")
