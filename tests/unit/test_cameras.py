"""Cameras against numbers worked out by hand."""

import math

import pytest
import torch

from img2mesh.geometry.cameras import (
    ORBIT_DISTANCE,
    VIEW_AZIMUTHS_DEG,
    VIEW_NAMES,
    Cameras,
    orbit,
    pixel_centres,
    project,
    rays,
    unproject,
)

ROOT_HALF = math.sqrt(0.5)


def perspective() -> Cameras:
    """One camera at (0, 0, 3) that looks along -z, 100 x 50 px, focal length 50 px."""
    pose = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, 3], [0, 0, 0, 1]])
    return Cameras(
        projection="perspective",
        world_from_camera=pose[None],
        focal_px=torch.tensor([50.0]),
        centre_px=torch.tensor([[50.0, 25.0]]),
        width_px=100,
        height_px=50,
    )


def test_the_front_camera_is_the_world_turned_to_opencv_axes() -> None:
    pose = orbit((0.0,), size_px=8).world_from_camera[0]
    expected = torch.tensor([[1.0, 0, 0, 0], [0, -1, 0, 0], [0, 0, -1, ORBIT_DISTANCE], [0, 0, 0, 1]])
    torch.testing.assert_close(pose, expected)


@pytest.mark.parametrize(
    ("azimuth_deg", "centre", "right"),
    [
        (0, (0, 0, 2), (1, 0, 0)),
        (45, (2 * ROOT_HALF, 0, 2 * ROOT_HALF), (ROOT_HALF, 0, -ROOT_HALF)),
        (90, (2, 0, 0), (0, 0, -1)),
        (180, (0, 0, -2), (-1, 0, 0)),
        (270, (-2, 0, 0), (0, 0, 1)),
        (315, (-2 * ROOT_HALF, 0, 2 * ROOT_HALF), (ROOT_HALF, 0, ROOT_HALF)),
    ],
)
def test_the_six_views_stand_where_their_azimuths_say(
    azimuth_deg: float, centre: tuple[float, ...], right: tuple[float, ...]
) -> None:
    cameras = orbit(size_px=8)
    pose = cameras.world_from_camera[VIEW_AZIMUTHS_DEG.index(azimuth_deg)]
    torch.testing.assert_close(pose[:3, 3], torch.tensor(centre, dtype=torch.float32))
    torch.testing.assert_close(pose[:3, 0], torch.tensor(right, dtype=torch.float32))


def test_every_pose_is_rigid_and_looks_at_the_origin() -> None:
    poses = orbit((0.0, 33.0, 217.0), size_px=8, elevation_deg=25).world_from_camera
    rotations = poses[:, :3, :3]
    torch.testing.assert_close(rotations @ rotations.mT, torch.eye(3).expand(3, 3, 3))
    torch.testing.assert_close(torch.linalg.det(rotations), torch.ones(3))
    torch.testing.assert_close(poses[:, :3, 3] + ORBIT_DISTANCE * rotations[:, :, 2], torch.zeros(3, 3), atol=1e-6, rtol=0)


def test_an_elevated_camera_stands_above_the_horizon() -> None:
    pose = orbit((90.0,), size_px=8, elevation_deg=30).world_from_camera[0]
    torch.testing.assert_close(pose[:3, 3], torch.tensor([math.sqrt(3), 1.0, 0.0]))


def test_the_right_view_sees_the_front_on_its_left() -> None:
    cameras = orbit(size_px=128)
    point = torch.tensor([0.25, 0.5, 0.75])
    pixels, depth = project(cameras, point.expand(6, 1, 3))
    # 64 px per unit, centre at 64; v grows downwards.
    torch.testing.assert_close(pixels[0, 0], torch.tensor([80.0, 32.0]))
    torch.testing.assert_close(depth[0, 0], torch.tensor(1.25))
    right = VIEW_NAMES.index("right")
    torch.testing.assert_close(pixels[right, 0], torch.tensor([16.0, 32.0]))
    torch.testing.assert_close(depth[right, 0], torch.tensor(1.75))


def test_perspective_divides_by_z() -> None:
    pixels, depth = project(perspective(), torch.tensor([[[1.0, 0.5, 1.0], [0, 0, 0], [-3, 1, -2]]]))
    torch.testing.assert_close(pixels[0], torch.tensor([[75.0, 12.5], [50, 25], [20, 15]]))
    torch.testing.assert_close(depth[0], torch.tensor([2.0, 3, 5]))


def test_perspective_unprojects_along_the_pixel() -> None:
    point = unproject(perspective(), torch.tensor([[[75.0, 12.5]]]), torch.tensor([[2.0]]))
    torch.testing.assert_close(point[0, 0], torch.tensor([1.0, 0.5, 1.0]))


def test_pixel_centres_start_at_one_half() -> None:
    centres = pixel_centres(3, 2)
    assert centres.shape == (2, 3, 2)
    assert centres[0, 0].tolist() == [0.5, 0.5]
    assert centres[1, 2].tolist() == [2.5, 1.5]


def test_orthographic_rays_start_on_the_camera_plane_and_are_parallel() -> None:
    origins, directions = rays(orbit((0.0, 90.0), size_px=4))
    # The first pixel's centre lies half a pixel, a quarter unit, inside the frame's corner.
    torch.testing.assert_close(origins[0, 0, 0], torch.tensor([-0.75, 0.75, 2.0]))
    torch.testing.assert_close(origins[1, 0, 0], torch.tensor([2.0, 0.75, 0.75]))
    torch.testing.assert_close(directions[0], torch.tensor([0.0, 0, -1]).expand(4, 4, 3))
    torch.testing.assert_close(directions[1], torch.tensor([-1.0, 0, 0]).expand(4, 4, 3), atol=1e-6, rtol=0)


def test_perspective_rays_start_at_the_centre_and_advance_one_unit_of_depth() -> None:
    origins, directions = rays(perspective())
    torch.testing.assert_close(origins[0], torch.tensor([0.0, 0, 3]).expand(50, 100, 3))
    torch.testing.assert_close(directions[..., 2], torch.full((1, 50, 100), -1.0))
    torch.testing.assert_close(directions[0, 25, 50], torch.tensor([0.01, -0.01, -1.0]))


def test_resized_cameras_see_the_same_scene() -> None:
    small = orbit(size_px=32)
    large = small.resized(128, 128)
    point = torch.tensor([0.3, -0.2, 0.1]).expand(6, 1, 3)
    torch.testing.assert_close(project(large, point)[0], 4 * project(small, point)[0])
    assert (large.width_px, large.height_px) == (128, 128)


def test_resizing_to_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match="shapes differ"):
        orbit(size_px=32).resized(64, 32)


def test_views_are_picked_by_index() -> None:
    cameras = orbit(size_px=8)
    assert len(cameras) == 6
    picked = cameras[[3, 0]]
    torch.testing.assert_close(picked.world_from_camera, cameras.world_from_camera[[3, 0]])
    assert len(cameras[1:]) == 5
