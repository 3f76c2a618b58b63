"""Rods for what the front shows and the other views leave nothing of."""

import pytest
import torch
from scipy.ndimage import label

from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.neus.grid import corner_points
from img2mesh.neus.hull import Hull, build_hull
from img2mesh.neus.limbs import Limbs, limbs

SIZE, RESOLUTION = 64, 64
RED = torch.tensor([0.8, 0.1, 0.1])


def table(*, feet: bool = False) -> Views:
    """A table top on two legs of four pixels, of which the sides show at most the feet, near the front."""
    alpha = torch.zeros(6, SIZE, SIZE)
    alpha[:, 16:24, 12:52] = 1
    for view in (0, 3):
        alpha[view, 24:56, 12:16] = alpha[view, 24:56, 48:52] = 1
    if feet:
        # Seen from the right, the front is on the left.
        alpha[2, 52:56, 14:20] = alpha[4, 52:56, 44:50] = 1
        alpha[1, 52:56], alpha[5, 52:56] = 1, 1
    rgb = torch.where(alpha[:, None] > 0, RED[:, None, None], 1.0)
    return Views(cameras=orbit(size_px=SIZE), rgb=rgb, alpha=alpha, normals=torch.zeros(6, 3, SIZE, SIZE))


def rods_of(views: Views) -> tuple[Hull, Limbs]:
    hull = build_hull(views.cameras, views.alpha, slack_px=0.0)
    rods = limbs(hull, views.alpha)
    assert rods
    return hull, rods


def parts(field: torch.Tensor) -> int:
    return int(label((field < 0).numpy(), structure=torch.ones(3, 3, 3).numpy())[1])


def test_views_that_agree_need_no_rods() -> None:
    views = table()
    alpha = views.alpha.clone()
    alpha[:, 24:] = 0
    assert limbs(build_hull(views.cameras, alpha, slack_px=0.0), alpha) is None


def test_legs_that_no_other_view_shows_hang_on_the_table() -> None:
    hull, rods = rods_of(table())
    field, front = rods.with_hull(hull, RESOLUTION)
    assert parts(hull.on_grid(RESOLUTION)[0]) == parts(field) == 1
    # Every pixel of the front well within its outline is covered, and nothing else is.
    assert bool((field.amin(0) < 0)[front.amin(0) < -1 / SIZE].all())
    assert not bool((field < 0)[front >= 0].any())


def test_a_leg_stands_where_a_side_shows_its_foot() -> None:
    hull, rods = rods_of(table(feet=True))
    field, _ = rods.with_hull(hull, RESOLUTION)
    # Without rods the feet are apart from the table top.
    assert parts(hull.on_grid(RESOLUTION)[0]) == 3
    assert parts(field) == 1
    depth = rods.middle[40:50, 12:16]
    # Cameras are two units away; the feet lie between 0.375 and 0.5625 in front of the middle.
    assert bool(((2 - depth > 0.33) & (2 - depth < 0.6)).all())


def test_rods_are_as_deep_as_they_are_wide() -> None:
    _, rods = rods_of(table())
    half = rods.half[40, 48:52]
    # Legs of four pixels, each of 1/32; the rod is round, so it is less deep at its rim.
    assert 1.4 / 32 < float(half.max()) <= 2.1 / 32
    assert float(half[0]) < float(half[1])
    # A point is told how far before the rod it lies; beside it there is no rod.
    points = torch.tensor([[0.55, -0.25, 2 - float(rods.middle[40, 49]) + 0.3], [0.0, -0.25, 0.0]])
    before, beside = rods.sdf(points).tolist()
    assert abs(before - (0.3 - float(rods.half[40, 49]))) < 0.02
    assert beside == torch.inf


def test_what_the_sides_hint_at_decides_where_a_leg_stands_and_how_deep_it_is() -> None:
    views = table()
    # The right half believes in a leg two pixels deep, and in nothing in front of it.
    for view, columns in ((2, slice(36, 38)), (4, slice(26, 28))):
        views.alpha[view, 24:56, columns] = 0.4
    views.alpha[1, 24:56] = views.alpha[5, 24:56] = 1
    _, rods = rods_of(views)
    assert torch.allclose(rods.middle[35:50, 49], torch.tensor(2 + 5 / 32), atol=1.5 / 32)
    assert float(rods.half[40, 48:52].max()) == pytest.approx(1 / 32)


def test_rods_are_shown_in_views_that_lack_them() -> None:
    views = table(feet=True)
    _, rods = rods_of(views)
    shown = rods.shown_in(views)
    assert torch.equal(shown.alpha[0], views.alpha[0])
    assert bool((shown.alpha >= views.alpha).all())
    # The right sees one leg behind the other, from the table top to the foot, and in their colour.
    assert bool((shown.alpha[2, 24:56] > 0.5).any(dim=1).all())
    new = (shown.alpha[2] > 0.5) & (views.alpha[2] < 0.5)
    assert 100 < int(new.sum()) < 400
    assert torch.allclose(shown.rgb[2][:, new], RED[:, None])
    assert torch.equal(shown.rgb[2][:, ~new], views.rgb[2][:, ~new])


def test_a_rod_that_the_front_shows_in_two_pieces_is_near_the_solid() -> None:
    views = table()
    alpha = views.alpha.clone()
    # Of the right leg only the lower end is left, with nothing that tells its depth.
    alpha[0, 24:44, 48:52] = 0
    hull = build_hull(views.cameras, alpha, slack_px=0.0)
    rods = limbs(hull, alpha)
    assert rods
    top = corner_points(torch.arange(RESOLUTION**3), RESOLUTION)[hull.on_grid(RESOLUTION)[0].reshape(-1) < 0]
    depth = 2 - rods.middle[46:54, 48:52]
    assert float(top[:, 2].min()) - 0.05 <= float(depth.min()) <= float(depth.max()) <= float(top[:, 2].max()) + 0.05
