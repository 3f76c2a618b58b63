"""Holes in masks that no other view believes in: a matting's faults, which a visual hull would drill through the object."""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Bool, Int
from scipy.ndimage import distance_transform_edt, label
from torch import Tensor

from img2mesh.geometry.views import Views
from img2mesh.neus.hull import build_hull
from img2mesh.neus.sight import answers, others, pixel_of, seen_in, sight_of

# A hole is small up to this share of its view's foreground.
_SMALL = 0.01
# What is less covered is background.
_BACKGROUND = 0.5
# Corners along each side of the grid on which the hull is asked where a closed hole's surface would be.
_RESOLUTION = 96
# A neighbour does not believe in a hole if it can judge this share of it, and of that sees this share closed.
_JUDGED, _CLOSED = 0.5, 0.8


def without_false_holes(views: Views) -> Views:
    """The views with those small holes closed that a neighbouring view sees closed.

    There, the neighbour shows what is around the hole, at the hull's surface. The front is taken at its word, and views without
    normals are.
    """
    holes = torch.stack([_small_holes(alpha, first=number == 0) for number, alpha in enumerate(views.alpha)])
    if not bool(holes.any()):
        return views
    closed = _closed(views, holes > 0)
    false = torch.zeros_like(holes, dtype=torch.bool)
    for view, hole in _false_holes(views, closed, holes):
        false[view] |= hole
    return _closed(views, false)


def _small_holes(alpha: Tensor, *, first: bool) -> Int[Tensor, "height width"]:
    """Number of the small hole of each pixel, from 1; 0 elsewhere, and all over the first view."""
    background = (alpha < _BACKGROUND).numpy()
    parts, count = label(background)
    rim = np.concatenate([parts[0], parts[-1], parts[:, 0], parts[:, -1]])
    sizes = np.bincount(parts.ravel(), minlength=count + 1)
    large = sizes > _SMALL * (~background).sum()
    open_ones = np.isin(parts, np.union1d(np.flatnonzero(large), rim))
    return torch.from_numpy(np.where(open_ones | first, 0, parts)).long()


def _closed(views: Views, holes: Bool[Tensor, "view height width"]) -> Views:
    """The views with holes that show what the pixels nearest to them show."""
    images = [tensor.clone() for tensor in (views.rgb, views.alpha, views.normals)]
    for view in holes.flatten(1).any(1).nonzero()[:, 0].tolist():
        # Pixels about a hole are covered in part, and mixtures.
        bad = holes[view] | (torch.from_numpy(distance_transform_edt(~holes[view].numpy())) < 2)
        row, column = distance_transform_edt(bad.numpy(), return_distances=False, return_indices=True)[:, bad.numpy()]
        for image in images:
            image[view][..., bad] = image[view][..., row, column]
    return replace(views, rgb=images[0], alpha=images[1], normals=images[2])


def _false_holes(
    views: Views, closed: Views, holes: Int[Tensor, "view height width"]
) -> Iterator[tuple[int, Bool[Tensor, "height width"]]]:
    hull = build_hull(closed.cameras, closed.alpha, slack_px=0.0).on_grid(_RESOLUTION)[0]
    as_they_are, as_closed = seen_in(views), seen_in(closed)
    for view in holes.flatten(1).any(1).nonzero()[:, 0].tolist():
        seen = as_they_are.with_view(view, as_closed)
        sight = sight_of(closed, view, hull)
        first, number = sight.first(), holes[view, sight.row, sight.column]
        asking = (number > 0) & (first >= 0)
        points, here = sight.at(first)[asking], sight.pixel[asking]
        for other in others(views.cameras, view, range(len(views))):
            against, asked = answers(seen, view, other, points, here)
            there, _, inside = pixel_of(views.cameras[[other]], points)
            open_there = inside & (views.alpha[other].flatten()[there] < _BACKGROUND)
            for hole in number[asking].unique().tolist():
                its = number[asking] == hole
                judged = int((asked.bool() | open_there)[its].sum())
                agreed = int((asked.bool() & ~against.bool() & ~open_there)[its].sum())
                if judged >= _JUDGED * int(its.sum()) and agreed >= _CLOSED * judged:
                    yield view, holes[view] == hole
