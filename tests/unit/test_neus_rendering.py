"""NeuS' opacity against its limits, and volume rendering against sums worked out by hand."""

import math
from itertools import pairwise

import pytest
import torch

from img2mesh.neus.rendering import sample_weights, scan_within_rays
from img2mesh.neus.sparse import from_rows, sum_of_groups


def logistic(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def opacity(*sdf: float, inv_std: float) -> float:
    """Of one ray."""
    return float(sample_weights(torch.tensor(sdf), torch.arange(len(sdf)), inv_std).sum())


def test_opacity_is_the_relative_drop_of_the_logistic() -> None:
    expected = (logistic(2.0) - logistic(-1.0)) / logistic(2.0)
    assert opacity(0.2, -0.1, inv_std=10.0) == pytest.approx(expected, abs=1e-6)


def test_opacity_is_zero_where_the_ray_leaves() -> None:
    assert opacity(-0.3, -0.1, 0.2, inv_std=50.0) == 0.0


def test_opacity_stays_exact_deep_inside_where_the_plain_quotient_is_zero_by_zero() -> None:
    # Far inside S(x) = exp(x), so the opacity is 1 - exp(-1000 * 0.001).
    assert opacity(-1.0, -1.001, inv_std=1000.0) == pytest.approx(1 - math.exp(-1), abs=1e-4)


def test_weights_far_outside_and_deep_inside_and_their_gradient_are_finite() -> None:
    sdf = torch.tensor([5.0, 4.0, -5.0, -6.0, 1e-9, 0.0], requires_grad=True)
    weights = sample_weights(sdf, torch.tensor([0, 1, 0, 1, 0, 1]), inv_std=1e4)
    assert weights[:2].tolist() == [0.0, 0.0]
    [gradient] = torch.autograd.grad(weights.square().sum(), sdf)
    assert torch.isfinite(weights).all()
    assert torch.isfinite(gradient).all()


def test_scan_starts_anew_with_each_ray() -> None:
    values = torch.tensor([1.0, 2, 3, 4, 5, 6], requires_grad=True)
    place = torch.tensor([0, 1, 2, 0, 1, 0])
    total = scan_within_rays(values, place)
    assert total.tolist() == [1, 3, 6, 4, 9, 6]
    total.backward(torch.tensor([1.0, 10, 100, 1, 10, 1]))
    assert values.grad is not None
    assert values.grad.tolist() == [111, 110, 100, 11, 10, 1]


def test_weights_of_a_ray_are_its_opacity() -> None:
    sdf = torch.tensor([0.5, 0.2, -0.2, -0.5, 0.3, 0.1])
    place = torch.tensor([0, 1, 2, 3, 0, 1])
    weights = sample_weights(sdf, place, inv_std=8.0)
    for ray in (slice(0, 4), slice(4, 6)):
        drops = [max(0.0, 1 - logistic(8 * after) / logistic(8 * before)) for before, after in pairwise(sdf[ray].tolist())]
        expected = 1 - math.prod(1 - drop for drop in drops)
        assert weights[ray].sum().item() == pytest.approx(expected, abs=1e-6)


def test_weights_gather_at_the_crossing() -> None:
    distance = torch.linspace(0, 1, 101)
    weights = sample_weights(0.6 - distance, torch.arange(101), inv_std=100.0)
    assert (weights * distance).sum().item() / weights.sum().item() == pytest.approx(0.6, abs=0.01)


def test_linear_map_and_its_gradient_are_the_dense_product() -> None:
    columns, weights = torch.tensor([[0, 2], [2, 2], [1, 3]]), torch.tensor([[1.0, 2], [3, 4], [0.5, -1]])
    dense = torch.tensor([[1.0, 0, 2, 0], [0, 0, 7, 0], [0, 0.5, 0, -1]])
    values = torch.arange(8.0).reshape(4, 2).requires_grad_()
    product = from_rows(columns, weights, 4)(values)
    assert torch.equal(product, dense @ values)
    upstream = torch.tensor([[1.0, -1], [2, 0], [0, 3]])
    product.backward(upstream)
    assert values.grad is not None
    assert torch.equal(values.grad, dense.T @ upstream)


def test_groups_are_added_up_and_empty_groups_are_zero() -> None:
    values = torch.tensor([[1.0], [2], [3]], requires_grad=True)
    total = sum_of_groups(torch.tensor([0, 0, 2]), 3)(values)
    assert total[:, 0].tolist() == [3, 0, 3]
    total.backward(torch.tensor([[5.0], [6], [7]]))
    assert values.grad is not None
    assert values.grad[:, 0].tolist() == [5, 5, 7]
