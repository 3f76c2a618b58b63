"""Holes in masks: a matting's are closed, an object's stay."""

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import trimesh

from img2mesh.data.objects import TexturedObject
from img2mesh.data.render import render_views
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.neus.holes import without_false_holes

SIDE = 96


def views_of(mesh: trimesh.Trimesh, azimuths_deg: Sequence[float] = (0, 45, 90, 180, 270, 315)) -> Views:
    grey = TexturedObject(
        vertices=np.asarray(mesh.vertices, dtype=np.float32),
        faces=np.asarray(mesh.faces, dtype=np.int32),
        uv=np.zeros((len(mesh.faces), 3, 2), dtype=np.float32),
        material=np.zeros(len(mesh.faces), dtype=np.int32),
        textures=(np.array((150, 120, 90, 255), dtype=np.uint8).reshape(1, 1, 4),),
    )
    rendered = render_views(grey, orbit(azimuths_deg, size_px=SIDE))
    rgba = torch.from_numpy(rendered.rgba).float().movedim(-1, 1) / 255
    alpha = rgba[:, 3]
    return Views(
        cameras=rendered.cameras,
        rgb=rgba[:, :3] * alpha[:, None] + 1 - alpha[:, None],
        alpha=alpha,
        normals=torch.from_numpy(rendered.normals).movedim(-1, 1) * (alpha > 0.5)[:, None],
    )


def holed(views: Views, view: int, row: int, column: int) -> Views:
    """With a hole of five by five pixels, as a matting leaves them: no colour, no normal."""
    keep = torch.ones_like(views.alpha)
    keep[view, row - 2 : row + 3, column - 2 : column + 3] = 0
    colours = views.rgb * keep[:, None] + 1 - keep[:, None]
    return Views(cameras=views.cameras, rgb=colours, alpha=views.alpha * keep, normals=views.normals * keep[:, None])


@pytest.fixture(scope="module")
def ball() -> Views:
    return views_of(trimesh.creation.icosphere(subdivisions=4, radius=0.7))


@pytest.mark.parametrize("view", [1, 2, 5])
def test_a_hole_that_a_neighbour_sees_closed_is_closed(ball: Views, view: int) -> None:
    mended = without_false_holes(holed(ball, view, 48, 48 - 10 * (view != 1) + 20 * (view == 5)))
    torch.testing.assert_close(mended.alpha, ball.alpha, atol=1e-6, rtol=0)
    assert float((mended.rgb - ball.rgb).abs().max()) < 0.15
    assert float((mended.normals - ball.normals).abs().max()) < 0.2


def test_the_front_is_taken_at_its_word(ball: Views) -> None:
    bad = holed(ball, 0, 48, 48)
    assert torch.equal(without_false_holes(bad).alpha, bad.alpha)


def test_whole_masks_stay_what_they_are(ball: Views) -> None:
    assert without_false_holes(ball) is ball


@pytest.mark.parametrize("thickness", [0.04, 0.3])
def test_a_window_stays_open(thickness: float) -> None:
    # Its neighbours see through it, or see its sides.
    side, opening, deep = 0.7, 0.07, thickness / 2
    bounds = [
        [(-side, -side, -deep), (-opening, side, deep)],
        [(opening, -side, -deep), (side, side, deep)],
        [(-opening, -side, -deep), (opening, -opening, deep)],
        [(-opening, opening, -deep), (opening, side, deep)],
    ]
    wall = trimesh.util.concatenate([trimesh.creation.box(bounds=pair) for pair in bounds])
    views = views_of(wall, azimuths_deg=tuple(range(0, 360, 45)))
    assert 30 < int((views.alpha[4] < 0.5)[40:56, 40:56].sum()) < 60
    assert torch.equal(without_false_holes(views).alpha, views.alpha)
