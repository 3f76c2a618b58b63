"""Depth of analytic fields against depths worked out by hand."""

import math

import pytest
import torch

from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import Cameras, orbit
from img2mesh.neus.grid import corner_points
from img2mesh.neus.surface import Surface


def surface_of(distance: torch.Tensor, resolution: int) -> Surface:
    return Surface(sdf=distance.reshape((resolution,) * 3), inv_std=4 * (resolution - 1) / 2)


def box(resolution: int, half: tuple[float, float, float]) -> Surface:
    outside = corner_points(torch.arange(resolution**3), resolution).abs() - torch.tensor(half)
    return surface_of(outside.amax(-1), resolution)


def ball(resolution: int, radius: float) -> Surface:
    return surface_of(corner_points(torch.arange(resolution**3), resolution).norm(dim=-1) - radius, resolution)


def test_depth_of_a_box_from_the_front_and_the_side() -> None:
    depth, confidence = box(41, (0.5, 0.4, 0.3)).render_depth(orbit((0.0, 90.0), size_px=20))
    # The cameras stand 2 from the origin, the faces at 0.3 and 0.5.
    assert depth[0, 10, 10].item() == pytest.approx(1.7, abs=1e-4)
    assert depth[1, 10, 10].item() == pytest.approx(1.5, abs=1e-4)
    assert depth[0, 0, 0].item() == 0.0
    assert confidence[0, 0, 0].item() == 0.0
    # Pixels are 0.1 wide: half widths 0.5 and 0.4 cover 10 x 8 of them.
    assert int((depth[0] > 0).sum()) == 80
    assert confidence[0, 10, 10].item() > 0.95


def test_depth_and_confidence_of_a_ball() -> None:
    depth, confidence = ball(65, 0.6).render_depth(orbit((30.0,), size_px=20, elevation_deg=20.0))
    u = 0.35
    assert depth[0, 10, 13].item() == pytest.approx(2 - math.sqrt(0.36 - u**2 - 0.05**2), abs=2e-3)
    cosine = math.sqrt(0.36 - u**2 - 0.05**2) / 0.6
    assert confidence[0, 10, 13].item() == pytest.approx(cosine, abs=0.05)
    assert bool(((confidence >= 0) & (confidence <= 1)).all())


def test_perspective_depth_is_z_depth_not_distance() -> None:
    pose = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
    cameras = Cameras(
        projection="perspective",
        world_from_camera=pose[None],
        focal_px=torch.tensor([40.0]),
        centre_px=torch.tensor([[10.0, 10.0]]),
        width_px=20,
        height_px=20,
    )
    depth, _ = box(41, (0.6, 0.6, 0.5)).render_depth(cameras)
    # A flat face has one z-depth all over, 3 - 0.5, though the corners are further away.
    assert depth[0, 10, 10].item() == pytest.approx(2.5, abs=1e-4)
    assert depth[0, 3, 3].item() == pytest.approx(2.5, abs=1e-4)


def test_another_resolution_keeps_the_level_set() -> None:
    surface = ball(33, 0.5)
    fine = surface.sdf_grid(65)
    assert fine.shape == (65, 65, 65)
    assert fine[32, 32, 48].item() == pytest.approx(0.0, abs=1e-3)
    assert surface.sdf_grid(33) is surface.sdf


@pytest.mark.parametrize(
    "value",
    [float("nan"), 1.0, -1.0],
    ids=["not finite", "empty", "all inside"],
)
def test_no_surface_is_an_error(value: float) -> None:
    with pytest.raises(NumericalError):
        surface_of(torch.full((8**3,), value), 8).checked()
