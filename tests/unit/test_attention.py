"""Depth-truncated epipolar attention against a slow twin that gathers everything, as the paper writes it."""

from typing import Any

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.epipolar import epipolar_grid, sample_offsets
from img2mesh.geometry.plucker import plucker_rays
from img2mesh.models import exchange
from img2mesh.models.attention import DepthTruncatedEpipolarAttention

VIEWS, SIZE, CHANNELS = 6, 8, 16


def attention(hidden: float | None = None) -> DepthTruncatedEpipolarAttention:
    torch.manual_seed(0)
    layer = DepthTruncatedEpipolarAttention(CHANNELS, views=VIEWS, samples=3, radius=0.2, heads=4, groups=4, hidden=hidden)
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
        grid = epipolar_grid(cameras, view, depth, offsets, layer.hidden_behind).double()
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


@pytest.mark.parametrize("hidden", [None, 0.1])
def test_equals_the_gathering_twin(hidden: float | None) -> None:
    layer, (features, depth) = attention(hidden), inputs()
    with torch.no_grad():
        fast = layer(features, depth, orbit(size_px=SIZE))
        slow = twin(layer, features, depth)
    assert torch.allclose(fast, slow, atol=1e-5)


@pytest.mark.parametrize("budget", [1, 2**22], ids=["few at a time", "all at once"])
def test_gradients_are_right(budget: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(exchange._BUDGET, "cpu", budget)
    size, channels = 6, 8
    torch.manual_seed(0)
    layer = DepthTruncatedEpipolarAttention(channels, views=3, samples=2, radius=0.2, heads=2, groups=2).double()
    names = [name for name, _ in layer.named_parameters()]
    weights = [torch.randn(parameter.shape, dtype=torch.float64) * 0.5 for parameter in layer.parameters()]
    features = torch.randn(3, channels, size, size, dtype=torch.float64)
    depth = (1.5 + torch.rand(3, size, size)) * (torch.rand(3, size, size) > 0.5)
    depth[2] = 0
    cameras = orbit((0.0, 60.0, 180.0), size_px=size)

    def computed(features: torch.Tensor, *weights: torch.Tensor) -> torch.Tensor:
        return torch.func.functional_call(layer, dict(zip(names, weights, strict=True)), (features, depth, cameras))

    inputs = [value.requires_grad_() for value in (features, *weights)]
    assert torch.autograd.gradcheck(computed, inputs, fast_mode=True)


@pytest.mark.parametrize("hidden", [None, 0.1])
def test_the_gradients_are_those_of_the_twin(hidden: float | None) -> None:
    layer, (features, depth) = attention(hidden), inputs()
    upstream = torch.randn(features.shape, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = []
    for compute in (lambda f: layer(f, depth, orbit(size_px=SIZE)), lambda f: twin(layer, f, depth)):
        leaf = features.clone().requires_grad_()
        layer.zero_grad()
        compute(leaf).backward(upstream)
        found.append([leaf.grad, *(parameter.grad for parameter in layer.parameters())])
    assert all(torch.allclose(ours, slow, atol=1e-5) for ours, slow in zip(*found, strict=True))


class Largest(TorchDispatchMode):
    """Remembers how many numbers the largest result of any operation has that shares no memory with its inputs."""

    numbers = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        results = func(*args, **(kwargs or {}))
        known = {leaf.untyped_storage().data_ptr() for leaf in tree_leaves(args) if isinstance(leaf, torch.Tensor)}
        made = [leaf for leaf in tree_leaves(results) if isinstance(leaf, torch.Tensor)]
        fresh = [leaf.untyped_storage().nbytes() // leaf.element_size() for leaf in made if leaf.data_ptr() not in known]
        self.numbers = max([self.numbers, *fresh])
        return results


def test_nothing_as_large_as_the_gather_ever_exists() -> None:
    size, channels, samples = 32, 64, 7
    torch.manual_seed(0)
    layer = DepthTruncatedEpipolarAttention(channels, views=VIEWS, samples=samples, radius=0.1, heads=2, groups=8)
    torch.nn.init.normal_(layer.to_out.weight)
    features = torch.randn(VIEWS, channels, size, size, requires_grad=True)
    depth = 1.6 + 0.8 * torch.rand(VIEWS, size, size)
    with Largest() as largest:
        layer(features, depth, orbit(size_px=size)).sum().backward()
    gather = VIEWS * (VIEWS - 1) * size * size * samples * channels
    assert features.numel() <= largest.numbers <= gather / 8


def test_mixed_precision_comes_close() -> None:
    layer, (features, depth) = attention().float(), inputs()
    features = features.float().requires_grad_()
    gradients = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            output = layer(features, depth, orbit(size_px=SIZE))
        gradients.append(torch.autograd.grad(output.float().square().sum(), features)[0])
    assert functional.cosine_similarity(*(g.flatten() for g in gradients), dim=0) > 0.999


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
    with torch.no_grad():
        assert torch.equal(layer(features, depth, orbit(size_px=SIZE)), features)


def test_gradients_reach_features_of_other_views() -> None:
    layer, (features, depth) = attention(), inputs()
    features.requires_grad_()
    layer(features, depth, orbit(size_px=SIZE))[0].sum().backward()
    assert features.grad is not None
    assert all(features.grad[view].abs().sum() > 0 for view in range(VIEWS))
