"""What holds for every field, ray and weight."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional

from img2mesh.neus.grid import cells_of, corner_points, trilinear
from img2mesh.neus.losses import trimmed_mean
from img2mesh.neus.rendering import sample_weights, scan_within_rays

distances = st.lists(st.floats(-2, 2, width=32), min_size=2, max_size=24)
coordinate = st.floats(-1, 1, width=32)


@given(st.floats(-2, 2, width=32), st.floats(-2, 2, width=32), st.floats(0.1, 1e5))
def test_opacity_is_a_share_and_zero_where_the_ray_leaves(before: float, after: float, inv_std: float) -> None:
    opacity = float(sample_weights(torch.tensor([before, after]), torch.arange(2), inv_std).sum())
    assert 0 <= opacity <= 1
    assert opacity == 0 or after < before


# A fit ends at 4 over the voxel, 256 for the finest grid in use; float32 sums of logarithms keep 1e-4 well beyond that.
@given(distances, st.floats(0.1, 1024.0))
def test_weights_add_up_to_the_opacity(sdf: list[float], inv_std: float) -> None:
    values = torch.tensor(sdf)
    weights = sample_weights(values, torch.arange(len(values)), inv_std)
    passed = functional.logsigmoid(values.double() * inv_std).diff().clamp(max=0).sum()
    assert bool((weights >= 0).all())
    assert abs(float(weights.double().sum() + torch.expm1(passed))) < 1e-4


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(0, 2**31))
def test_scan_is_the_running_sum_of_each_ray(sizes: list[int], seed: int) -> None:
    parts = [torch.rand(size, generator=torch.Generator().manual_seed(seed)) for size in sizes]
    place = torch.cat([torch.arange(size) for size in sizes])
    expected = torch.cat([part.cumsum(0) for part in parts])
    assert torch.allclose(scan_within_rays(torch.cat(parts), place), expected, atol=1e-5)


@given(coordinate, coordinate, coordinate, st.integers(2, 40))
def test_trilinear_weights_add_up_and_reproduce_positions(x: float, y: float, z: float, resolution: int) -> None:
    point = torch.tensor([[x, y, z]])
    corner, weights = trilinear(*cells_of(point, resolution), resolution)
    assert bool((weights >= 0).all())
    assert torch.allclose(weights.sum(1), torch.ones(1), atol=1e-5)
    found = (corner_points(corner[0], resolution) * weights[0, :, None]).sum(0)
    assert torch.allclose(found, point[0], atol=1e-4)


@given(st.lists(st.floats(0, 10, width=32), min_size=1, max_size=30), st.floats(0.05, 1))
def test_a_trimmed_mean_is_never_above_the_mean(losses: list[float], kept: float) -> None:
    loss = torch.tensor(losses)
    weight, nobody = torch.ones_like(loss), torch.zeros_like(loss, dtype=torch.bool)
    assert float(trimmed_mean(loss, kept, weight, nobody)) <= float(loss.mean()) + 1e-5
    assert abs(float(trimmed_mean(loss, kept, weight, ~nobody) - loss.mean())) < 1e-4
