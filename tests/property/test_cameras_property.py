"""Projection and its inverse undo each other for any camera."""

import math

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from img2mesh.geometry.cameras import Cameras, orbit, project, rays, unproject

angles = st.floats(-360, 360)
elevations = st.floats(-80, 80)
coordinates = st.tuples(*[st.floats(-1, 1)] * 3)


@st.composite
def cameras(draw: st.DrawFn) -> Cameras:
    """Orbit cameras of either projection, with any principal point."""
    width, height = draw(st.integers(8, 200)), draw(st.integers(8, 200))
    around = orbit([draw(angles) for _ in range(draw(st.integers(1, 3)))], size_px=16, elevation_deg=draw(elevations))
    count = len(around)
    return Cameras(
        projection=draw(st.sampled_from(["orthographic", "perspective"])),
        world_from_camera=around.world_from_camera,
        focal_px=torch.tensor([draw(st.floats(5, 300)) for _ in range(count)]),
        centre_px=torch.tensor([(draw(st.floats(0, width)), draw(st.floats(0, height))) for _ in range(count)]),
        width_px=width,
        height_px=height,
    )


@given(cameras(), st.lists(coordinates, min_size=1, max_size=5))
@settings(deadline=None, max_examples=60)
def test_unproject_undoes_project(seen_by: Cameras, points: list[tuple[float, float, float]]) -> None:
    world = torch.tensor(points).expand(len(seen_by), -1, 3) * 0.9
    pixels, depth = project(seen_by, world)
    torch.testing.assert_close(unproject(seen_by, pixels, depth), world, atol=2e-4, rtol=0)


@given(cameras(), st.floats(0.1, 4))
@settings(deadline=None, max_examples=40)
def test_a_point_on_a_ray_projects_to_its_pixel_at_its_depth(seen_by: Cameras, depth: float) -> None:
    origins, directions = rays(seen_by)
    pixels, found = project(seen_by, origins + depth * directions)
    torch.testing.assert_close(found, torch.full_like(found, depth), atol=1e-4, rtol=0)
    x = torch.arange(seen_by.width_px) + 0.5
    y = torch.arange(seen_by.height_px) + 0.5
    torch.testing.assert_close(pixels[..., 0], x.expand_as(pixels[..., 0]), atol=0.02, rtol=0)
    torch.testing.assert_close(pixels[..., 1], y[:, None].expand_as(pixels[..., 1]), atol=0.02, rtol=0)


@given(angles, coordinates)
@settings(deadline=None, max_examples=60)
def test_turning_the_camera_is_turning_the_world(azimuth_deg: float, point: tuple[float, float, float]) -> None:
    angle = math.radians(azimuth_deg)
    x, y, z = point
    turned = (x * math.cos(angle) - z * math.sin(angle), y, x * math.sin(angle) + z * math.cos(angle))
    there = project(orbit((azimuth_deg,), size_px=64), torch.tensor(point).view(1, 1, 3))
    front = project(orbit((0.0,), size_px=64), torch.tensor(turned).view(1, 1, 3))
    torch.testing.assert_close(there, front, atol=1e-3, rtol=0)
