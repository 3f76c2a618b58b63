"""The depth-guided decoder around a plain one."""

import torch

from img2mesh.geometry.cameras import orbit
from img2mesh.models.autoencoder import from_config
from img2mesh.models.decoder import DepthGuidedDecoder, inherit

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


def pair() -> tuple[torch.nn.Module, DepthGuidedDecoder]:
    torch.manual_seed(0)
    vae = from_config(VAE).eval()
    config = {key: VAE[key] for key in SHARED} | {"num_views": 6, "samples": [7, 7, 7, 2], "radius": 0.1, "head_dim": 32}
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
    for module in (*network.fronts, *network.attentions):
        for parameter in module.parameters():
            torch.nn.init.normal_(parameter, std=0.2)
    latents, depth = torch.randn(6, 4, 4, 4), torch.full((6, 32, 32), 2.0)
    pictures = torch.zeros(4, 32, 32), torch.ones(4, 32, 32)
    with torch.no_grad():
        told = [network(latents, picture, depth, orbit(size_px=32)) for picture in pictures]
        untold = [network(latents, picture, depth * 0, orbit(size_px=32)) for picture in pictures]
    assert not torch.allclose(told[0][2], told[1][2], atol=1e-3)
    assert torch.allclose(untold[0][2], untold[1][2], atol=1e-6)
