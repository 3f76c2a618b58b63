"""Scores against numbers worked out by hand."""

import numpy as np
import pytest
import torch

from img2mesh.metrics.image import masked_psnr, psnr, silhouette_iou, ssim
from img2mesh.metrics.mesh import compare_surfaces, sample_surface


def test_psnr_of_a_constant_difference() -> None:
    assert psnr(torch.zeros(3, 4, 4), torch.full((3, 4, 4), 0.1)) == pytest.approx(20.0, abs=1e-4)
    assert psnr(torch.ones(3), torch.ones(3)) == pytest.approx(120.0)


def test_masked_psnr_ignores_what_is_outside() -> None:
    image, truth = torch.zeros(3, 2, 2), torch.zeros(3, 2, 2)
    image[:, 0, 0], image[:, 1, 1] = 0.01, 1.0
    mask = torch.tensor([[True, False], [False, False]])
    assert masked_psnr(image, truth, mask) == pytest.approx(40.0, abs=1e-3)
    assert masked_psnr(image, truth, torch.zeros(2, 2, dtype=torch.bool)) == 0.0


def test_silhouette_iou_counts_pixels() -> None:
    ours, theirs = torch.zeros(4, 4), torch.zeros(4, 4)
    ours[:, :2], theirs[:, 1:3] = 0.9, 0.6
    assert silhouette_iou(ours, theirs) == pytest.approx(4 / 12)
    assert silhouette_iou(ours, ours) == 1.0
    assert silhouette_iou(torch.zeros(2), torch.zeros(2)) == 1.0


def test_ssim_of_equal_and_of_constant_pictures() -> None:
    picture = torch.rand(3, 16, 16, generator=torch.Generator().manual_seed(0))
    assert ssim(picture, picture) == pytest.approx(1.0)
    # Without variance only the term of the means is left: (2 * 0.2 * 0.4 + c1) / (0.2 ** 2 + 0.4 ** 2 + c1).
    expected = (0.16 + 1e-4) / (0.2 + 1e-4)
    assert ssim(torch.full((1, 12, 12), 0.2), torch.full((1, 12, 12), 0.4)) == pytest.approx(expected, abs=1e-4)
    assert ssim(picture, 1 - picture) < 0


def test_chamfer_and_f_score_of_shifted_points() -> None:
    points = np.array([[0.0, 0.0, 0.0], [10.0, 0.0, 0.0]])
    scores = compare_surfaces(points, np.array([[0.0, 1.0, 0.0], [10.0, 3.0, 0.0]]), threshold=1.5)
    assert scores.chamfer == pytest.approx(2.0)
    assert scores.f_score == pytest.approx(0.5)
    assert compare_surfaces(points, points + np.array([0, 0, 9]), threshold=1.0).f_score == 0.0


def test_samples_lie_on_the_triangles_in_proportion_to_their_areas() -> None:
    vertices = np.array([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 5], [3, 0, 5], [0, 1, 5]])
    points = sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 4000, seed=1)
    on_large = points[:, 2] == 5
    assert on_large.mean() == pytest.approx(0.75, abs=0.03)
    small = points[~on_large]
    assert (small[:, 2] == 0).all()
    assert (small[:, 0] + small[:, 1] <= 1 + 1e-12).all()
    assert small[:, :2].mean(axis=0) == pytest.approx([1 / 3, 1 / 3], abs=0.03)
    assert (points == sample_surface(vertices, np.array([[0, 1, 2], [3, 4, 5]]), 4000, seed=1)).all()
