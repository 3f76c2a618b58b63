"""Epipolar geometry and depth against hand-computed numbers."""

import pytest
import torch
from torch.nn import functional

from img2mesh.geometry.cameras import orbit, pixel_centres, unproject
from img2mesh.geometry.depth import add_structured_noise, pool_depth
from img2mesh.geometry.epipolar import Sight, bilinear_corners, epipolar_grid, sample_offsets
from img2mesh.geometry.plucker import plucker_rays


def test_offsets_are_the_centres_of_equal_strata() -> None:
    assert sample_offsets(2, 0.1).tolist() == pytest.approx([-0.05, 0.05])
    assert sample_offsets(7, 0.7).tolist() == pytest.approx([-0.6, -0.4, -0.2, 0.0, 0.2, 0.4, 0.6])


def test_drawn_offsets_stay_in_their_strata() -> None:
    drawn = sample_offsets(5, 1.0, torch.Generator().manual_seed(1))
    assert ((drawn + 1) / 0.4).floor().tolist() == [0, 1, 2, 3, 4]


def test_a_point_at_the_origin_is_seen_in_the_middle_of_every_view() -> None:
    cameras = orbit(size_px=5)
    grid = epipolar_grid(cameras, 0, torch.full((6, 5, 5), 2.0), torch.zeros(1))
    assert grid.shape == (5, 1, 5, 5, 2)
    assert torch.allclose(grid[:, 0, 2, 2], torch.zeros(5, 2), atol=1e-6)


def test_points_on_the_front_rays_move_along_the_rows_of_the_side_view() -> None:
    # A point at depth 2 + t lies at z = -t; the right camera looks along -x and sees +z on its left, so at u = +t.
    cameras = orbit((0.0, 90.0), size_px=4)
    grid = epipolar_grid(cameras, 0, torch.full((2, 4, 4), 2.0), torch.tensor([-0.5, 0.0, 0.5]))
    assert grid[0, :, 0, 0, 0].tolist() == pytest.approx([-0.5, 0.0, 0.5], abs=1e-6)
    assert torch.allclose(grid[0, :, :, :, 1], (pixel_centres(4, 4)[..., 1] / 2 - 1).expand(3, -1, -1), atol=1e-6)


def test_sources_come_in_cyclic_order() -> None:
    cameras = orbit(size_px=4)
    depth = torch.full((6, 4, 4), 1.5)
    grid = epipolar_grid(cameras, 4, depth, torch.zeros(1))
    point = unproject(cameras[[4]], pixel_centres(4, 4)[None], depth[[4]])[0]
    # The first source of view 4 is view 5, the second is the front, which sees x and -y directly.
    assert torch.allclose(grid[1, 0], point[..., :2] * torch.tensor([1.0, -1.0]), atol=1e-6)


def test_what_a_ball_hides_is_in_no_picture_but_those_from_the_opposite_side() -> None:
    cameras, middle = orbit(size_px=33), 16
    centres = (pixel_centres(33, 33) / 33 * 2 - 1).square().sum(dim=-1)
    ball = torch.where(centres < 0.25, 2 - (0.25 - centres).clamp(min=0).sqrt(), torch.zeros(33, 33)).expand(6, -1, -1)
    everywhere, some = (epipolar_grid(cameras, 1, ball, torch.zeros(1), hidden)[:, 0, middle, middle] for hidden in (None, 0.3))
    # Seen from the front right: the right side is 45 degrees away, back and left 135, the front left 90, the front 45.
    inside = (some.abs() <= 1).all(dim=-1)
    assert inside.tolist() == [True, False, False, True, True]
    assert torch.equal(some[inside], everywhere[inside])
    behind = epipolar_grid(cameras, 0, ball, torch.zeros(1), 0.3)[2, 0, middle, middle]
    assert behind.tolist() == pytest.approx([0.0, 0.0], abs=1e-6)


def test_plucker_rays_are_unit_and_orthogonal_to_their_moments() -> None:
    rays = plucker_rays(orbit(size_px=8))
    assert torch.allclose(rays[:, :3].norm(dim=1), torch.ones(6, 8, 8), atol=1e-6)
    assert torch.allclose((rays[:, :3] * rays[:, 3:]).sum(dim=1), torch.zeros(6, 8, 8), atol=1e-6)


def test_the_front_centre_ray_has_the_known_coordinates() -> None:
    front = plucker_rays(orbit((0.0,), size_px=1))[0, :, 0, 0]
    assert front.tolist() == pytest.approx([0, 0, -1, 0, 0, 0], abs=1e-6)


def test_pooling_ignores_the_background() -> None:
    depth = torch.tensor([[[1.0, 0.0, 0.0, 0.0], [3.0, 0.0, 0.0, 0.0]]])
    assert pool_depth(depth, 2).tolist() == [[[2.0, 0.0]]]


def test_structured_noise_is_bounded_and_survives_pooling() -> None:
    depth = torch.full((2, 64, 64), 2.0)
    depth[:, :32] = 0
    scales = (0.1, 0.1 / 3, 0.1 / 9, 0.1 / 9)
    noisy = add_structured_noise(depth, scales, torch.Generator().manual_seed(0))
    assert (noisy[:, :32] == 0).all()
    error = noisy[:, 32:] - 2
    assert error.abs().max() <= sum(scales)
    independent = (torch.rand(2, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1) * 0.1
    assert pool_depth(noisy, 8)[:, 4:].std() > 4 * torch.nn.functional.avg_pool2d(independent, 8).std()


def test_corners_interpolate_as_grid_sample_does_also_outside() -> None:
    sources, width, height = 3, 5, 4
    generator = torch.Generator().manual_seed(0)
    maps = torch.randn(sources, 2, height, width, generator=generator, dtype=torch.float64)
    grid = torch.rand(sources, 6, 7, 2, generator=generator, dtype=torch.float64) * 3 - 1.5
    rows, weights = bilinear_corners(grid, width, height)
    sight = Sight(rays=torch.arange(7), rows=rows, weights=weights, pixels=width * height)
    table = maps.flatten(2).mT.flatten(0, 1).contiguous()
    expected = functional.grid_sample(maps, grid, align_corners=False).sum(dim=0)
    assert torch.allclose(sight.look_up(table, slice(None)), expected.permute(2, 1, 0), atol=1e-12)
    # Its transpose: the same number either way round.
    seen = torch.randn(7, 6, 2, generator=generator, dtype=torch.float64)
    there = (sight.look_up(table, slice(None)) * seen).sum()
    back = (table.unflatten(0, (sources, -1)) * sight.scatter(seen, sources)).sum()
    assert there.item() == pytest.approx(back.item())
