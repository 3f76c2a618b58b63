"""Contours, the forgiving hull and the promise to the front."""

import pytest
import torch

from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import orbit
from img2mesh.neus.grid import corner_points, sample, spacing
from img2mesh.neus.hull import build_hull, contours_of, with_room
from img2mesh.neus.silhouette import match_outline

SIZE = 32


def squares(*halves: int) -> torch.Tensor:
    """One mask a view: a centred square of so many pixels to either side."""
    masks = torch.zeros(len(halves), SIZE, SIZE)
    for mask, half in zip(masks, halves, strict=True):
        mask[16 - half : 16 + half, 16 - half : 16 + half] = 1
    return masks


def test_contour_of_a_half_plane_is_the_distance_in_pixels() -> None:
    alpha = torch.zeros(1, 8, 8)
    alpha[:, :, 4:] = 1
    contour = contours_of(alpha)
    assert contour.shape == (1, 32, 32)
    # Quarter-pixel columns: the first lies 3.875 px before the edge at x = 4.
    assert contour[0, 16, 0].item() == pytest.approx(3.875, abs=1e-6)
    assert contour[0, 16, 31].item() < 0


def test_a_half_covered_pixel_moves_the_contour_by_half_a_pixel() -> None:
    alpha = torch.zeros(1, 8, 8)
    alpha[:, :, 4:] = 1
    alpha[:, :, 3] = 0.5
    assert contours_of(alpha)[0, 16, 0].item() == pytest.approx(3.375, abs=0.13)


def test_a_view_without_foreground_carves_nothing() -> None:
    alpha = squares(8, 8, 8, 8, 8, 8)
    alpha[1] = 0
    hull = build_hull(orbit(size_px=SIZE), alpha, slack_px=0.0)
    assert hull.sdf(torch.zeros(1, 3)).item() < 0


def test_an_empty_front_is_an_error() -> None:
    with pytest.raises(NumericalError, match="front's mask"):
        build_hull(orbit(size_px=SIZE), squares(0, 8, 8, 8, 8, 8), slack_px=0.0)


def test_facing_views_share_a_silhouette() -> None:
    hull = build_hull(orbit(size_px=SIZE), squares(8, 8, 8, 8, 8, 8), slack_px=0.0)
    # The back (3) sees what the front sees; right (2) and left (4) face each other; the diagonals stand alone.
    assert hull.groups == ((1,), (2, 4), (5,))


def test_two_square_views_make_a_box() -> None:
    hull = build_hull(orbit((0.0, 90.0), size_px=SIZE), squares(8, 4), slack_px=0.0)
    points = torch.tensor([[0.5 - 0.06, 0.0, 0.0], [0.5 + 0.06, 0.0, 0.0], [0.0, 0.0, 0.25 + 0.06], [0.0, 0.0, 0.25 - 0.06]])
    assert (hull.sdf(points) < 0).tolist() == [True, False, False, True]


def test_views_that_contradict_the_front_leave_something_behind_each_of_its_pixels() -> None:
    alpha = squares(12, 12, 12, 12, 12, 12)
    alpha[5] = 0
    alpha[5, :6, :6] = 1
    resolution = 32
    hull = with_room(build_hull(orbit(size_px=SIZE), alpha, slack_px=0.0), resolution)
    centres = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    inner = centres[4 + 2 : 28 - 2]
    z, y, x = torch.meshgrid(torch.linspace(-1, 1, 128), inner, inner, indexing="ij")
    lowest = hull.sdf(torch.stack([x, y, z], dim=-1).reshape(-1, 3)).reshape(z.shape).amin(0)
    assert bool((lowest < 0).all())


def test_a_plate_that_views_agree_on_is_not_widened() -> None:
    # Its faces are between half a voxel and one voxel from its middle.
    alpha, resolution = squares(8, 8), 25
    alpha[1, :, :15] = alpha[1, :, 17:] = 0
    hull = build_hull(orbit((0.0, 90.0), size_px=SIZE), alpha, slack_px=0.0)
    just_outside = torch.tensor([[0.0, 0.0, 1 / 16 + 0.01]])
    assert 0.5 * spacing(resolution) < 1 / 16 < spacing(resolution)
    assert float(with_room(hull, resolution).sdf(just_outside)) == pytest.approx(0.01, abs=0.005)


def test_the_field_gets_exactly_the_outline_of_the_front() -> None:
    resolution = 49
    points = corner_points(torch.arange(resolution**3), resolution)
    ball = (points.norm(dim=-1) - 0.3).reshape((resolution,) * 3)
    cameras, alpha = orbit((0.0,), size_px=SIZE), squares(8)
    alpha[0, 4:8, 15:17] = 1  # a wire two pixels wide that the ball lacks
    alpha[0, 23, :] = 0
    matched = match_outline(ball, cameras, alpha[0])
    centres = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    z, y, x = torch.meshgrid(torch.linspace(-1, 1, 201), -centres, centres, indexing="ij")
    assert (sample(matched, torch.stack([x, y, z], dim=-1)).amin(0) < 0).equal(alpha[0] >= 0.5)
    wire = sample(matched, torch.stack([torch.zeros(201), torch.full((201,), 0.65), torch.linspace(-1, 1, 201)], dim=-1))
    # The wire continues the ball where that is deepest, in its middle, and is three voxels thick.
    assert (wire < 0).nonzero()[:, 0].float().mean().item() == pytest.approx(100, abs=3)
    assert (wire < 0).sum().item() * 0.01 == pytest.approx(3 * 2 / 48, abs=0.03)
