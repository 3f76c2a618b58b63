"""The first guess of the views, the features it is told, and what the generator makes of both."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from img2mesh.errors import InputError
from img2mesh.models.autoencoder import BACK
from img2mesh.models.checkpoint import read_weights, save_weights
from img2mesh.models.features import PictureFeatures, folded
from img2mesh.models.multiview import MultiviewGenerator
from img2mesh.models.regressor import ViewRegressor, reflected
from img2mesh.training.multiview import _go_on
from img2mesh.training.regressor import CONFIG, _Change, _guess_of

SMALL = {"size_px": 32, "channels": [8, 8, 16, 16], "dropout": 0.2}


def published_block(number: int, widths: tuple[int, int, int], kernel: int) -> Iterator[tuple[str, Tensor]]:
    """Random weights of one block with the published names."""
    entering, inner, leaving = widths
    shapes = {"_depthwise_conv": (inner, 1, kernel, kernel), "_project_conv": (leaving, inner, 1, 1)}
    if inner != entering:
        shapes["_expand_conv"] = (inner, entering, 1, 1)
    for name, shape in shapes.items():
        yield f"_blocks.{number}.{name}.weight", torch.randn(shape) * 0.3
        norm = {"_expand_conv": "_bn0", "_depthwise_conv": "_bn1", "_project_conv": "_bn2"}[name]
        for part in ("weight", "bias", "running_mean", "running_var"):
            yield f"_blocks.{number}.{norm}.{part}", torch.rand(shape[0]) + 0.5


def normalised(hidden: Tensor, state: dict[str, Tensor], name: str) -> Tensor:
    """What a convolution's batch normalisation makes of its output."""
    mean, var, weight, bias = (state[f"{name}.{part}"] for part in ("running_mean", "running_var", "weight", "bias"))
    return functional.batch_norm(hidden, mean, var, weight, bias, eps=1e-3)


def test_folded_normalisations_give_what_they_gave_by_themselves() -> None:
    torch.manual_seed(0)
    state = dict(published_block(1, (16, 96, 24), 3))
    block = PictureFeatures().blocks[1]
    inner = {name.removeprefix("blocks.1."): value for name, value in folded(state | stem()).items() if "blocks.1." in name}
    block.load_state_dict(inner)
    picture = torch.randn(2, 16, 12, 12)
    wide = functional.relu6(
        normalised(functional.conv2d(picture, state["_blocks.1._expand_conv.weight"]), state, "_blocks.1._bn0")
    )
    # TensorFlow pads an even side of a strided convolution behind alone.
    spread = functional.conv2d(
        functional.pad(wide, (0, 1, 0, 1)), state["_blocks.1._depthwise_conv.weight"], stride=2, groups=96
    )
    spread = functional.relu6(normalised(spread, state, "_blocks.1._bn1"))
    expected = normalised(functional.conv2d(spread, state["_blocks.1._project_conv.weight"]), state, "_blocks.1._bn2")
    torch.testing.assert_close(block(picture), expected, atol=1e-4, rtol=1e-4)


def stem() -> dict[str, Tensor]:
    norm = {f"_bn0.{part}": torch.ones(32) for part in ("weight", "bias", "running_mean", "running_var")}
    return {"_conv_stem.weight": torch.randn(32, 3, 3, 3), **norm}


def regressor() -> ViewRegressor:
    torch.manual_seed(1)
    network = ViewRegressor(SMALL).eval()
    for parameter in network.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    return network


def test_the_mirrored_picture_has_the_mirrored_guess() -> None:
    fronts = torch.rand(2, 4, 64, 64)
    network = regressor()
    torch.testing.assert_close(network.views(fronts.flip(-1)), reflected(network.views(fronts)), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(network.elevation(fronts.flip(-1)), network.elevation(fronts), atol=1e-5, rtol=1e-5)


def test_the_guess_is_of_the_picture() -> None:
    fronts = torch.rand(2, 4, 64, 64)
    first, second = regressor().views(fronts)
    assert first.shape == (6, 7, 32, 32)
    assert not torch.allclose(first, second, atol=1e-3)
    one, other = regressor().elevation(fronts)
    assert one != other


def test_a_taller_object_has_flatter_normals_and_the_same_longest_side() -> None:
    views = torch.zeros(1, 6, 7, 32, 32)
    views[:, :, :3] = 1
    views[:, :, 3, 8:24, 8:24] = 1
    views[:, :, 5:7, 8:24, 8:24] = 0.5**0.5
    taller = _Change.drawn(views, 0.35, torch.Generator().manual_seed(1)).of(views)
    inside = taller[0, 0, 3] >= 0.5
    height, width = int(inside.any(dim=1).sum()), int(inside.any(dim=0).sum())
    assert max(height, width) == pytest.approx(16, abs=1)
    assert height != width
    normal = taller[0, 0, 4:, 16, 16]
    assert float(normal.norm()) == pytest.approx(1, abs=1e-3)
    # A slope of one half way up becomes one of the two sides' ratio.
    assert float(normal[1] / normal[2]) == pytest.approx(width / height, abs=0.1)
    assert torch.all(taller[:, :, :3] == 1)


def test_a_taller_object_looks_as_if_seen_from_higher_up() -> None:
    views = torch.zeros(64, 6, 7, 32, 32)
    views[:, :, 3, 8:24, 8:24] = 1
    change = _Change.drawn(views, 0.35, torch.Generator().manual_seed(1))
    elevation = torch.full((64,), 0.5)
    # A floor's normal leans towards the viewer; stretched as surfaces are, it leans by the elevation that is given.
    floor = torch.stack([elevation.cos() / change.taller, elevation.sin()])
    torch.testing.assert_close(change.raised(elevation), torch.atan2(floor[1], floor[0]))
    assert torch.equal(change.raised(torch.zeros(64)), torch.zeros(64))


def test_colours_change_alike_in_all_views_and_white_stays() -> None:
    views = torch.rand(8, 6, 7, 32, 32)
    views[:, :, 3] = (views[:, :, 3] > 0.5).float()
    views[:, :, :3] = torch.where(views[:, :, 3:4] > 0, torch.tensor([0.2, 0.4, 0.6])[:, None, None], torch.ones(()))
    changed = _Change.drawn(views, 0.35, torch.Generator().manual_seed(0))._recoloured(views)
    assert torch.all(changed[:, :, :3][(views[:, :, 3:4] == 0).expand(-1, -1, 3, -1, -1)] == 1)
    assert torch.equal(changed[:, :, 3:], views[:, :, 3:])
    covered = views[:, :, 3] > 0
    found = set()
    for before, after, inside in zip(views, changed, covered, strict=True):
        colours = after[:, :3].movedim(1, -1)[inside].unique(dim=0)
        assert len(colours) == 1
        assert before.shape == after.shape
        found.add(tuple(colours[0].tolist()))
    assert len(found) > 2


def test_a_front_changes_as_the_front_among_its_views_does() -> None:
    torch.manual_seed(0)
    views = functional.interpolate(torch.rand(8 * 6, 7, 4, 4), size=32).unflatten(0, (8, 6))
    views[:, :, :3] = views[:, :, :3] * views[:, :, 3:4] + 1 - views[:, :, 3:4]
    change = _Change.drawn(views, 0.35, torch.Generator().manual_seed(4))
    assert 0 < change.mirrored.sum() < 8
    torch.testing.assert_close(change.of(views[:, :1, :4]), change.of(views)[:, :1, :4])


def test_a_regressor_goes_on_from_a_generator_s_or_says_that_there_is_none(tmp_path: Path) -> None:
    network = ViewRegressor(CONFIG)
    inside = {f"guess.{name}": value for name, value in network.state_dict().items()}
    save_weights(tmp_path / "generator.safetensors", inside | {"unet.a": torch.ones(1)}, {"guess": CONFIG})
    save_weights(tmp_path / "regressor.safetensors", network.state_dict(), CONFIG)
    first, second = (_guess_of(tmp_path / f"{name}.safetensors") for name in ("generator", "regressor"))
    assert first.keys() == second.keys() == network.state_dict().keys()
    save_weights(tmp_path / "none.safetensors", {"unet.a": torch.ones(1)}, {"unet": {}})
    with pytest.raises(InputError, match="give those of a regressor"):
        _guess_of(tmp_path / "none.safetensors")


@pytest.mark.parametrize(("seen_deg", "told_deg"), [(30.0, 30.0), (5.0, 0.0), (-20.0, 0.0)])
def test_a_picture_is_from_above_when_that_is_clear(seen_deg: float, told_deg: float) -> None:
    network = MultiviewGenerator(generator_config({**SMALL, "channels": [8, 8, 8, 8]}))
    assert network.guess is not None
    torch.nn.init.zeros_(network.guess.raised.weight)
    torch.nn.init.constant_(network.guess.raised.bias, math.radians(seen_deg))
    assert network.front_elevation_deg(torch.rand(4, 32, 32)) == pytest.approx(told_deg, abs=1e-4)


def test_a_generator_tells_each_view_its_guess_and_the_back_the_mirror_image() -> None:
    config = {**SMALL, "channels": [8, 8, 8, 8]}
    network = MultiviewGenerator(generator_config(config))
    fronts = torch.rand(1, 4, 32, 32)
    told = network.conditions(fronts, lambda pictures: functional.avg_pool2d(pictures, 2))
    assert told.shape == (1, 6, 4 + 28, 16, 16)
    latent = functional.avg_pool2d(fronts, 2)
    for view in range(6):
        expected = latent.flip(-1) if view == BACK else latent
        torch.testing.assert_close(told[:, view, :4], expected)
    assert network.guess is not None
    guess = network.guess.views(fronts)
    assert torch.equal(told[0, 2, 4:8].reshape(4, 16, 16)[3], guess[0, 2, 0, 1::2, 1::2] * 2 - 1)
    assert not network.train().guess.training
    coverage = network.coverage(fronts[0])
    assert coverage is not None
    assert torch.equal(coverage, guess[0, :, 3])


def test_a_generator_goes_on_as_one_that_had_no_guess(tmp_path: Path) -> None:
    torch.manual_seed(3)
    plain = MultiviewGenerator(generator_config(None)).eval()
    save_weights(tmp_path / "base.safetensors", plain.state_dict(), plain.config)
    plain.load_state_dict(read_weights(tmp_path / "base.safetensors")[0])
    wider = MultiviewGenerator(generator_config({**SMALL, "channels": [8, 8, 8, 8]})).eval()
    _go_on(wider, read_weights(tmp_path / "base.safetensors")[0], tmp_path / "base.safetensors")
    inputs, told = torch.randn(12, 8, 16, 16), (torch.tensor(5), torch.randn(12, 1, 16), torch.randn(12, 10))
    with torch.no_grad():
        torch.testing.assert_close(wider(torch.cat([inputs, torch.randn(12, 28, 16, 16)], dim=1), *told), plain(inputs, *told))


def generator_config(guess: dict[str, Any] | None) -> dict[str, Any]:
    unet = {
        "sample_size": 16, "in_channels": 36 if guess else 8, "out_channels": 4, "block_out_channels": [32, 32],
        "cross_attention_dim": 16,
        "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"], "up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"],
        "layers_per_block": 1, "attention_head_dim": 2, "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 10,
    }  # fmt: skip
    encoder = {
        "hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 32,
        "patch_size": 16, "projection_dim": 16,
    }  # fmt: skip
    return {"unet": unet, "image_encoder": encoder} | ({"guess": guess} if guess else {})
