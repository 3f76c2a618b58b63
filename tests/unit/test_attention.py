"""Depth-truncated epipolar attention against a slow twin that gathers everything, as the paper writes it."""

import torch
from torch.nn import functional

from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.epipolar import epipolar_grid, sample_offsets
from img2mesh.geometry.plucker import plucker_rays
from img2mesh.models.attention import DepthTruncatedEpipolarAttention

VIEWS, SIZE, CHANNELS = 6, 8, 16


def attention() -> DepthTruncatedEpipolarAttention:
    torch.manual_seed(0)
    layer = DepthTruncatedEpipolarAttention(CHANNELS, views=VIEWS, samples=3, radius=0.2, heads=4, groups=4)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return layer.double()


def twin(layer: DepthTruncatedEpipolarAttention, features: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Concatenate the features of all sources at every point, then the MLP, then attention, pixel by pixel."""
    cameras = orbit(size_px=SIZE)
    told = torch.cat([layer.norm(features), plucker_rays(cameras).to(features)], dim=1)
    offsets = sample_offsets(layer.samples, layer.radius).to(depth)
    first = layer.mlp_in.weight[:, :, 0, 0].unflatten(0, (VIEWS - 1, layer.hidden))
    output = features.clone()
    for view in range(VIEWS):
        grid = epipolar_grid(cameras, view, depth[view], offsets).double()
        query = layer.to_q(told[view : view + 1])[0]
        for row, column in (depth[view] > 0).nonzero().tolist():
            points = []
            for sample in range(layer.samples):
                places = grid[:, sample, row, column]
                sources = [(view + step) % VIEWS for step in range(1, VIEWS)]
                seen = [
                    functional.grid_sample(told[s][None], p[None, None, None], align_corners=False)[0, :, 0, 0]
                    for s, p in zip(sources, places, strict=True)
                ]
                gathered = torch.cat(seen)
                hidden = first.permute(1, 0, 2).flatten(1) @ gathered
                points.append(layer.mlp_out(functional.silu(hidden + layer.place[sample])))
            keys, values = layer.to_kv(torch.stack(points)).chunk(2, dim=1)
            heads = [slice(h * 4, h * 4 + 4) for h in range(4)]
            mixed = [((keys[:, h] @ query[h, row, column]) / 2).softmax(dim=0) @ values[:, h] for h in heads]
            output[view, :, row, column] += layer.to_out(torch.cat(mixed)[None, :, None, None])[0, :, 0, 0]
    return output


def inputs() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(1)
    features = torch.randn(VIEWS, CHANNELS, SIZE, SIZE, generator=generator, dtype=torch.float64)
    depth = 1.5 + torch.rand(VIEWS, SIZE, SIZE, generator=generator, dtype=torch.float64)
    return features, depth * (torch.rand(VIEWS, SIZE, SIZE, generator=generator) > 0.3)


def test_equals_the_gathering_twin() -> None:
    layer, (features, depth) = attention(), inputs()
    with torch.no_grad():
        fast = layer(features, depth, orbit(size_px=SIZE))
        slow = twin(layer, features, depth)
    assert torch.allclose(fast, slow, atol=1e-5)


def test_background_pixels_keep_their_features() -> None:
    layer, (features, depth) = attention(), inputs()
    with torch.no_grad():
        output = layer(features, depth, orbit(size_px=SIZE))
    background = (depth == 0)[:, None].expand_as(features)
    assert torch.equal(output[background], features[background])
    assert not torch.allclose(output[~background], features[~background])


def test_a_new_layer_changes_nothing() -> None:
    features, depth = inputs()
    layer = DepthTruncatedEpipolarAttention(CHANNELS, views=VIEWS, samples=3, radius=0.2, heads=4, groups=4).double()
    assert torch.equal(layer(features, depth, orbit(size_px=SIZE)), features)


def test_gradients_reach_features_of_other_views() -> None:
    layer, (features, depth) = attention(), inputs()
    features.requires_grad_()
    layer(features, depth, orbit(size_px=SIZE))[0].sum().backward()
    assert features.grad is not None
    assert all(features.grad[view].abs().sum() > 0 for view in range(VIEWS))
