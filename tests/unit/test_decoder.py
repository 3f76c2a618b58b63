"""The depth-guided decoder around a plain one."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import AutoencoderKLTemporalDecoder

from img2mesh.geometry.cameras import orbit
from img2mesh.models.autoencoder import from_config
from img2mesh.models.decoder import AcrossViews, DepthGuidedDecoder, inherit

VAE = {
    "in_channels": 4,
    "out_channels": 4,
    "latent_channels": 4,
    "block_out_channels": [32, 32, 64, 64],
    "layers_per_block": 1,
    "norm_num_groups": 8,
    "sample_size": 32,
    "use_post_quant_conv": False,
}
SHARED = ("out_channels", "latent_channels", "block_out_channels", "layers_per_block", "norm_num_groups")


def pair(**changes: Any) -> tuple[torch.nn.Module, DepthGuidedDecoder]:
    torch.manual_seed(0)
    vae = from_config(VAE).eval()
    config = {key: VAE[key] for key in SHARED} | {
        "num_views": 6,
        "samples": [7, 7, 7, 2],
        "radius": 0.1,
        "head_dim": 32,
        **changes,
    }
    network = DepthGuidedDecoder(config).eval()
    inherit(network, vae.state_dict())
    return vae, network


def test_untrained_it_is_the_plain_decoder() -> None:
    vae, network = pair()
    latents = torch.randn(6, 4, 4, 4)
    with torch.no_grad():
        guided = network(latents, torch.randn(4, 32, 32), torch.full((6, 32, 32), 2.0), orbit(size_px=32))
        assert torch.allclose(guided, vae.decode(latents).sample, atol=1e-5)


def test_the_front_picture_reaches_other_views_through_depth_alone() -> None:
    _, network = pair()
    for module in (*network.fronts, *network.attentions.values()):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    latents, depth = torch.randn(6, 4, 4, 4), torch.full((6, 32, 32), 2.0)
    pictures = torch.zeros(4, 32, 32), torch.ones(4, 32, 32)
    with torch.no_grad():
        told = [network(latents, picture, depth, orbit(size_px=32)) for picture in pictures]
        untold = [network(latents, picture, depth * 0, orbit(size_px=32)) for picture in pictures]
    assert not torch.allclose(told[0][2], told[1][2], atol=1e-3)
    assert torch.allclose(untold[0][2], untold[1][2], atol=1e-6)


def shaken(**changes: Any) -> DepthGuidedDecoder:
    """A decoder whose new and temporal layers all do something."""
    _, network = pair(**changes)
    for name, parameter in network.named_parameters():
        if "temporal" in name or "time_conv" in name or "mix_factor" in name or not name.startswith("decoder."):
            torch.nn.init.normal_(parameter, std=0.2)
    return network


@torch.no_grad()
def changed_views(
    network: DepthGuidedDecoder, *, latent: int | None = None, depth: float = 2.0, front: float = 0.0
) -> list[int]:
    """The views that are another picture after a change of one view's latent, of the depth or of the front picture."""
    latents, maps, picture = torch.randn(6, 4, 4, 4), torch.full((6, 32, 32), 2.0), torch.zeros(4, 32, 32)
    before = network(latents, picture, maps, orbit(size_px=32))
    if latent is not None:
        latents[latent] += 1
    after = network(latents, picture + front, maps * depth / 2, orbit(size_px=32))
    return [view for view in range(6) if not torch.allclose(before[view], after[view], atol=1e-5)]


NO_POINTS = {"samples": [0, 0, 0, 0]}


def test_the_plain_variant_decodes_each_view_by_itself() -> None:
    network = shaken(**NO_POINTS, front=False, alone=True)
    assert changed_views(network, latent=3) == [3]
    assert changed_views(network, front=1.0) == []


def test_without_epipolar_attention_neighbours_meet_in_the_temporal_layers_alone() -> None:
    network = shaken(**NO_POINTS)
    assert changed_views(network, depth=1.7) == []
    assert changed_views(network, front=1.0)[0] == 0
    assert len(changed_views(network, latent=3)) > 1


def test_full_epipolar_attention_asks_nothing_of_the_depth() -> None:
    network = shaken(samples=[16, 8, 0, 0], radius=1.0, epipolar="full")
    assert sorted(network.attentions) == ["0", "1"]
    assert changed_views(network, depth=1.7) == []
    assert changed_views(shaken(), depth=1.7) == list(range(6))
    assert changed_views(network, front=1.0) == list(range(6))


@torch.no_grad()
def test_asked_at_other_points_it_keeps_what_it_learned_of_their_places() -> None:
    network = shaken()
    inputs = torch.randn(6, 4, 4, 4), torch.zeros(4, 32, 32), torch.full((6, 32, 32), 2.0), orbit(size_px=32)
    assert torch.equal(network.asking(radius=0.1, density=1)(*inputs), network(*inputs))
    network.attentions["0"].place.copy_(torch.arange(7.0)[:, None].expand(7, network.attentions["0"].hidden))
    denser = network.asking(density=2)
    assert [attention.samples for attention in denser.attentions.values()] == [14, 14, 14, 4]
    # Two points in each of the seven strata: a quarter of a stratum to either side.
    places = denser.attentions["0"].place[:, 0]
    assert torch.allclose(places[1:-1], torch.arange(14)[1:-1] / 2 - 0.25)
    assert not torch.allclose(denser(*inputs), network(*inputs), atol=1e-3)


def temporal(widths: tuple[int, ...]) -> AutoencoderKLTemporalDecoder:
    """Diffusers' own network at some size; at the widths (128, 256, 512, 512) that of Stable Video Diffusion."""
    torch.manual_seed(0)
    network = AutoencoderKLTemporalDecoder(
        block_out_channels=widths, layers_per_block=2, down_block_types=("DownEncoderBlock2D",) * len(widths)
    )
    return network.eval()


def farthest(widths: tuple[int, ...], side: int) -> float:
    """How far the guided decoder with new layers is from the temporal one around which it is built."""
    original = temporal(widths)
    for name, parameter in original.decoder.named_parameters():
        if "mix_factor" in name or "time_conv_out" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    shared = {"out_channels": 3, "latent_channels": 4, "layers_per_block": 2, "norm_num_groups": 32, "num_views": 6}
    new = {"samples": [7] * (len(widths) - 1) + [2], "radius": 0.1, "head_dim": 64}
    network = DepthGuidedDecoder({**shared, **new, "block_out_channels": list(widths)}).eval()
    network.decoder.load_state_dict(original.decoder.state_dict(), strict=True)
    size, latents = side * 2 ** (len(widths) - 1), torch.randn(6, 4, side, side)
    depth = torch.full((6, size, size), 2.0)
    # With gradients asked for, the layers that do nothing yet are computed all the same.
    guided = network(latents, torch.randn(3, size, size), depth, orbit(size_px=size)).detach()
    with torch.no_grad():
        skipped = network(latents, torch.randn(3, size, size), depth, orbit(size_px=size))
        expected = original.decode(latents, num_frames=6).sample
    return max(float((found - expected).abs().max()) for found in (guided, skipped))


def test_new_layers_leave_the_temporal_decoder_as_it_is() -> None:
    torch.set_default_dtype(torch.float64)
    try:
        assert farthest((32, 64), side=8) < 1e-12
    finally:
        torch.set_default_dtype(torch.float32)


@pytest.mark.slow
def test_new_layers_leave_the_full_temporal_decoder_as_it_is() -> None:
    # A quarter of the side of the published latents: the same network with a sixteenth of the pixels.
    # Convolutions across the views add in another order than in three dimensions: rounding of 512 channels, ten layers deep.
    assert farthest((128, 256, 512, 512), side=8) < 1e-4


def test_convolutions_across_views_are_those_in_three_dimensions() -> None:
    torch.manual_seed(0)
    plain = torch.nn.Conv3d(8, 4, (3, 1, 1), padding=(1, 0, 0))
    flat = AcrossViews(8, 4, (3, 1, 1), padding=(1, 0, 0))
    flat.load_state_dict(plain.state_dict())
    hidden = torch.randn(2, 8, 6, 5, 7)
    results = [(layer(hidden), list(layer.parameters())) for layer in (plain, flat)]
    torch.testing.assert_close(*(made for made, _ in results))
    gradients = [torch.autograd.grad(made.square().sum(), parameters) for made, parameters in results]
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-4)


def test_the_full_temporal_decoder_has_the_published_names() -> None:
    with torch.device("meta"):
        network = temporal((128, 256, 512, 512))
    expected = json.loads((Path(__file__).parents[1] / "golden" / "svd_vae_keys.json").read_text())
    assert len(expected) == 374
    assert {name: list(tensor.shape) for name, tensor in network.state_dict().items()} == expected
