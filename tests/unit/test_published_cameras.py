"""Wonder3D's two sets of poses are one rig, and its labels come from the turned one."""

import math

import pytest
import torch

from img2mesh.diffusion.conditioning import published_labels
from img2mesh.geometry.cameras import VIEW_NAMES, orbit
from img2mesh.geometry.wonder3d import (
    LABEL_ANGLES_RAD,
    LABEL_POSES,
    ORTHO_SCALE,
    RECONSTRUCTION_POSES,
    polar_and_azimuth,
    published_cameras,
)

SETS = {"reconstruction": RECONSTRUCTION_POSES, "labels": LABEL_POSES}


@pytest.mark.parametrize("poses", SETS.values(), ids=SETS)
def test_in_the_front_cameras_frame_both_sets_are_our_orbit(poses: dict) -> None:
    assert tuple(poses) == VIEW_NAMES
    published, ours = published_cameras(poses, size_px=256), orbit(size_px=256)
    assert torch.allclose(published.world_from_camera[:, :3, :3], ours.world_from_camera[:, :3, :3], atol=1e-5)
    assert torch.equal(published.focal_px, ours.focal_px)
    distances = published.world_from_camera[:, :3, 3].norm(dim=1) * ORTHO_SCALE / 2
    diagonal = math.hypot(1.3, 1.3)
    assert distances.tolist() == pytest.approx([1.3, diagonal, 1.3, 1.3, 1.3, diagonal], abs=1e-5)


def test_the_canonical_cameras_stand_where_their_names_say() -> None:
    matrices = torch.tensor(list(RECONSTRUCTION_POSES.values()), dtype=torch.float64)
    centres = -(matrices[:, :, :3].mT @ matrices[:, :, 3:])[..., 0]
    expected = [[0, -1.3, 0], [1.3, -1.3, 0], [1.3, 0, 0], [0, 1.3, 0], [-1.3, 0, 0], [-1.3, -1.3, 0]]
    assert torch.allclose(centres, torch.tensor(expected, dtype=torch.float64), atol=1e-6)


def test_labels_are_the_turned_rigs_spherical_coordinates() -> None:
    angles = torch.tensor(list(LABEL_ANGLES_RAD.values()), dtype=torch.float64)
    assert torch.allclose(polar_and_azimuth(LABEL_POSES), angles, atol=1e-6)
    # On the rig that is not turned they would be the true ones.
    true = polar_and_azimuth(RECONSTRUCTION_POSES)
    assert torch.allclose(true[:, 0], torch.zeros(6, dtype=torch.float64), atol=1e-6)
    assert torch.allclose(true[:, 1].rad2deg(), torch.tensor([0, 45, 90, 180, 270, 315]).double(), atol=1e-4)


def test_a_row_is_sines_then_cosines_of_angles_and_task() -> None:
    rows = published_labels()
    polar, azimuth = LABEL_ANGLES_RAD["right"]
    normal = [0, math.sin(polar), math.sin(azimuth), math.sin(1), 0, 1, math.cos(polar), math.cos(azimuth), math.cos(1), 1]
    assert rows.shape == (12, 10)
    assert rows[2].tolist() == pytest.approx(normal, abs=1e-6)
    assert rows[8, [3, 4, 8, 9]].tolist() == pytest.approx([0, math.sin(1), 1, math.cos(1)], abs=1e-6)
    # The figures as they are usually quoted.
    assert [round(a, 5) for a in LABEL_ANGLES_RAD["back"]] == [0.52204, 3.14159]
