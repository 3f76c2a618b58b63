"""Scores of surfaces against surfaces, by points sampled on them."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.spatial import cKDTree

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class SurfaceScores:
    """How near two surfaces are.

    Attributes:
        chamfer: Mean of the two mean distances to the nearest point of the other surface, scene units.
        f_score: Harmonic mean of the shares of points within the threshold of the other surface.
    """

    chamfer: float
    f_score: float


def sample_surface(vertices: Floats, faces: npt.NDArray[np.int64], count: int, *, seed: int) -> Floats:
    """Points [count, 3] spread evenly over the triangles by area; the same seed gives the same points."""
    rng = np.random.default_rng(seed)
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    areas = np.linalg.norm(np.cross(b - a, c - a), axis=1)
    chosen = rng.choice(len(faces), size=count, p=areas / areas.sum())
    # A square folded on its diagonal is a triangle evenly filled.
    u, v = rng.random((2, count, 1))
    folded = u + v > 1
    u, v = np.where(folded, 1 - u, u), np.where(folded, 1 - v, v)
    points: Floats = a[chosen] + u * (b - a)[chosen] + v * (c - a)[chosen]
    return points


def compare_surfaces(points: Floats, truth: Floats, *, threshold: float) -> SurfaceScores:
    """Chamfer distance (not squared) and F-score of two sets of surface points.

    Args:
        threshold: Of the F-score, scene units.
    """
    ahead = cKDTree(truth).query(points)[0]
    back = cKDTree(points).query(truth)[0]
    precision, recall = float((ahead <= threshold).mean()), float((back <= threshold).mean())
    f_score = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return SurfaceScores(chamfer=float(ahead.mean() + back.mean()) / 2, f_score=f_score)
