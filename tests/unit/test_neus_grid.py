"""The grid, its band and marching rays, on fields that are known everywhere."""

import pytest
import torch

from img2mesh.neus.band import build_band
from img2mesh.neus.grid import all_corners, cells_of, corner_points, resampled, sample, spacing, trilinear
from img2mesh.neus.losses import eikonal_loss
from img2mesh.neus.sampling import march


def sphere(resolution: int, radius: float = 0.6) -> torch.Tensor:
    points = corner_points(torch.arange(resolution**3), resolution)
    return (points.norm(dim=-1) - radius).reshape((resolution,) * 3)


def test_corners_run_x_first_from_minus_one_to_one() -> None:
    points = corner_points(torch.tensor([0, 1, 3, 9, 26]), 3)
    assert points.tolist() == [[-1, -1, -1], [0, -1, -1], [-1, 0, -1], [-1, -1, 0], [1, 1, 1]]


def test_cells_and_weights_by_hand() -> None:
    base, place = cells_of(torch.tensor([[-0.5, 0.0, 0.75]]), 3)
    assert base.item() == (1 * 3 + 1) * 3 + 0
    assert place.tolist() == [[0.5, 0.0, 0.75]]
    corner, weights = trilinear(base, place, 3)
    assert corner[0].tolist() == [12, 13, 15, 16, 21, 22, 24, 25]
    assert weights[0].tolist() == [0.125, 0.125, 0, 0, 0.375, 0.375, 0, 0]


def test_sampling_a_linear_field_is_exact() -> None:
    points = corner_points(torch.arange(5**3), 5)
    field = (points @ torch.tensor([1.0, 2, 3])).reshape(5, 5, 5)
    assert sample(field, torch.tensor([0.3, -0.2, 0.7])).item() == pytest.approx(0.3 - 0.4 + 2.1, abs=1e-5)
    assert resampled(field, 9)[4, 4, 8].item() == pytest.approx(1.0, abs=1e-5)
    assert resampled(field, 5) is field


def test_a_cell_needs_all_its_corners() -> None:
    flags = torch.ones(3, 3, 3, dtype=torch.bool)
    flags[2, 2, 2] = False
    cells = all_corners(flags)
    assert int(cells.sum()) == 7
    assert not bool(cells[1, 1, 1])


def test_gradients_of_a_plane_are_exact_in_the_band_and_at_the_faces() -> None:
    direction = torch.tensor([2.0, -1.0, 2.0]) / 3
    plane = (corner_points(torch.arange(12**3), 12) @ direction).reshape(12, 12, 12)
    band = build_band(plane, 2.0)
    gradients = band.gradients(plane.reshape(-1)[band.active])
    assert torch.allclose(gradients, direction[:, None].expand_as(gradients), atol=1e-5)
    assert eikonal_loss(gradients.norm(dim=0)).item() == pytest.approx(0.0, abs=1e-7)
    # Twice the distance has gradients of length 2, and the loss is (2 - 1)^2.
    assert eikonal_loss(2 * gradients.norm(dim=0)).item() == pytest.approx(1.0, abs=1e-5)


def test_values_move_to_another_band_by_grid_corner() -> None:
    field = sphere(16)
    old, fresh = build_band(field, 2.0), build_band(field + 0.1, 2.0)
    moved, known = old.carried(field.reshape(-1)[old.active], fresh)
    assert bool(known.any())
    assert not bool(known.all())
    assert torch.equal(moved[known], field.reshape(-1)[fresh.active[known]])
    assert bool((moved[~known] == 0).all())


def test_bends_are_small_on_a_plane_and_none_far_away() -> None:
    plane = corner_points(torch.arange(10**3), 10)[:, 2].reshape(10, 10, 10)
    band = build_band(plane, 3.0)
    normals = torch.tensor([0.0, 0, 1]).expand(len(band.active), 3)
    assert bool((band.bends(normals) == 0).all())


def test_marching_keeps_to_the_cells_and_orders_samples() -> None:
    band = build_band(sphere(24), 2.0)
    origins = torch.tensor([[0.0, 0.0, 2.0], [0.9, 0.9, 2.0], [0.3, 0.0, 2.0]])
    directions = torch.tensor([[0.0, 0.0, -1.0]]).expand(3, 3)
    samples = march(band.cells, origins, directions, step_voxels=1.0)
    assert set(samples.ray.tolist()) == {0, 2}
    first = samples.ray == 0
    assert samples.place[first].tolist() == list(range(int(first.sum())))
    assert bool((samples.distance[first].diff() > 0).all())
    radius = samples.points[first].norm(dim=-1)
    # The band is two voxels to either side, and no cell reaches further.
    assert bool(((radius - 0.6).abs() < 2.0 * spacing(24)).all())


def test_marching_through_nothing_finds_nothing() -> None:
    cells = torch.zeros(8, 8, 8, dtype=torch.bool)
    samples = march(cells, torch.tensor([[0.0, 0, 2]]), torch.tensor([[0.0, 0, -1]]), step_voxels=1.0)
    assert samples.points.shape == (0, 3)
