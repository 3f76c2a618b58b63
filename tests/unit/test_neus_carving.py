"""Carving against a solid with a hollow that no outline shows."""

import numpy as np
import pytest
import torch
import trimesh
from scipy.ndimage import distance_transform_edt

from img2mesh.data.objects import TexturedObject
from img2mesh.data.render import render_views
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.neus.carving import _to_others, carved
from img2mesh.neus.grid import corner_points
from img2mesh.neus.hull import build_hull
from img2mesh.neus.sight import box_of

SIDE = 64
Blocks = dict[str, tuple[tuple[float, float, float], tuple[float, float, float], tuple[int, int, int]]]
# A seat in blocks: the space between the arms is open to the front and above, but the arms hide it from the sides.
SEAT: Blocks = {
    "base": ((-0.7, -0.6, -0.5), (0.7, -0.2, 0.5), (120, 80, 60)),
    "back": ((-0.7, -0.2, -0.5), (0.7, 0.6, -0.25), (60, 120, 80)),
    "left arm": ((-0.7, -0.2, -0.25), (-0.45, 0.3, 0.5), (80, 60, 140)),
    "right arm": ((0.45, -0.2, -0.25), (0.7, 0.3, 0.5), (150, 150, 40)),
}
GREY_SEAT: Blocks = {name: (low, high, (128, 128, 128)) for name, (low, high, _) in SEAT.items()}
# From the front a switch and its plate of the same colour look like one flat piece; both of its places could be right.
SWITCH: Blocks = {
    "plate": ((-0.7, -0.7, -0.2), (0.7, 0.7, 0.0), (200, 200, 200)),
    "switch": ((-0.3, -0.4, 0.0), (0.3, 0.4, 0.3), (200, 200, 200)),
}
# Frame and back panel of one colour face the same way: only the wedge that the sides' inner faces carve parts them.
CABINET: Blocks = {
    "panel": ((-0.5, -0.7, -0.2), (0.5, 0.7, -0.1), (200, 200, 200)),
    "left": ((-0.5, -0.7, -0.1), (-0.42, 0.7, 0.2), (200, 200, 200)),
    "right": ((0.42, -0.7, -0.1), (0.5, 0.7, 0.2), (200, 200, 200)),
    "top": ((-0.5, 0.6, -0.1), (0.5, 0.7, 0.2), (200, 200, 200)),
    "bottom": ((-0.5, -0.7, -0.1), (0.5, -0.6, 0.2), (200, 200, 200)),
}


def built(blocks: Blocks) -> TexturedObject:
    parts, materials, texels = [], [], []
    for number, (low, high, colour) in enumerate(blocks.values()):
        box = trimesh.creation.box(bounds=[low, high])
        parts.append(box)
        materials.append(np.full(len(box.faces), number, dtype=np.int32))
        texels.append(np.array((*colour, 255), dtype=np.uint8).reshape(1, 1, 4))
    mesh = trimesh.util.concatenate(parts)
    return TexturedObject(
        vertices=np.asarray(mesh.vertices, dtype=np.float32),
        faces=np.asarray(mesh.faces, dtype=np.int32),
        uv=np.zeros((len(mesh.faces), 3, 2), dtype=np.float32),
        material=np.concatenate(materials),
        textures=tuple(texels),
    )


def views_of(obj: TexturedObject) -> Views:
    rendered = render_views(obj, orbit(size_px=SIDE))
    rgba = torch.from_numpy(rendered.rgba).float().movedim(-1, 1) / 255
    alpha = rgba[:, 3]
    return Views(
        cameras=rendered.cameras,
        rgb=rgba[:, :3] * alpha[:, None] + 1 - alpha[:, None],
        alpha=alpha,
        normals=torch.from_numpy(rendered.normals).movedim(-1, 1),
    )


def true_solid(blocks: Blocks) -> torch.Tensor:
    points = corner_points(torch.arange(SIDE**3), SIDE)
    inside = torch.zeros(SIDE**3, dtype=torch.bool)
    for low, high, _ in blocks.values():
        inside |= ((points > torch.tensor(low)) & (points < torch.tensor(high))).all(-1)
    return inside.reshape(SIDE, SIDE, SIDE)


def hull_of(views: Views) -> torch.Tensor:
    return build_hull(views.cameras, views.alpha, slack_px=0.0).on_grid(SIDE)[0]


@pytest.fixture(scope="module")
def views() -> Views:
    return views_of(built(SEAT))


@pytest.fixture(scope="module")
def hull(views: Views) -> torch.Tensor:
    return hull_of(views)


@pytest.mark.parametrize(
    ("blocks", "excess", "lost"),
    [(SEAT, 0.1, 0.03), (GREY_SEAT, 0.2, 0.1), (CABINET, 0.4, 0.01), (SWITCH, 1.01, 0.01)],
    ids=["seat", "seat of one colour", "cabinet of one colour", "switch of one colour stays a hull"],
)
def test_the_hollow_is_found_and_the_solid_stays(blocks: Blocks, excess: float, lost: float) -> None:
    views, truth = views_of(built(blocks)), true_solid(blocks)
    hull = hull_of(views)
    too_much = (hull < 0) & ~truth
    assert int(too_much.sum()) > 0.15 * int(truth.sum())
    solid = carved(views, hull) < 0
    assert int((solid & ~truth).sum()) < excess * int(too_much.sum())
    assert int((truth & ~solid).sum()) < lost * int(truth.sum())


@pytest.mark.parametrize("fault", ["shifted", "wrong normals", "holes"])
def test_one_bad_view_costs_little(views: Views, hull: torch.Tensor, fault: str) -> None:
    rgb, alpha, normals = views.rgb.clone(), views.alpha.clone(), views.normals.clone()
    if fault == "shifted":
        rgb[1], alpha[1], normals[1] = (image.roll(1, dims=-1) for image in (rgb[1], alpha[1], normals[1]))
    elif fault == "wrong normals":
        normals[2] = torch.tensor([0.6, 0.0, 0.8])[:, None, None] * (alpha[2] > 0.5)
    else:
        alpha[5, 30:33, 28:31] = 0
    bad = Views(cameras=views.cameras, rgb=rgb, alpha=alpha, normals=normals * (alpha > 0.5)[:, None])
    truth = true_solid(SEAT)
    solid = carved(bad, hull) < 0
    assert int((truth & ~solid).sum()) < 0.1 * int(truth.sum())


def test_nothing_is_added(views: Views, hull: torch.Tensor) -> None:
    assert bool((carved(views, hull) >= hull).all())


def test_a_convex_object_keeps_its_hull() -> None:
    ball = trimesh.creation.icosphere(subdivisions=4, radius=0.6)
    obj = TexturedObject(
        vertices=np.asarray(ball.vertices, dtype=np.float32),
        faces=np.asarray(ball.faces, dtype=np.int32),
        uv=np.zeros((len(ball.faces), 3, 2), dtype=np.float32),
        material=np.zeros(len(ball.faces), dtype=np.int32),
        textures=(np.array((200, 100, 50, 255), dtype=np.uint8).reshape(1, 1, 4),),
    )
    views = views_of(obj)
    start = hull_of(views)
    radius = corner_points(torch.arange(SIDE**3), SIDE).norm(dim=-1).reshape(start.shape)
    lost = (carved(views, start) >= 0) & (radius < 0.6 - 2 * 2 / SIDE)
    assert int(lost.sum()) == 0


def test_short_distances_are_exact_and_long_ones_cut() -> None:
    flags = torch.rand(20, 30, 7, generator=torch.Generator().manual_seed(0)) < 0.97
    flags[4:18, 5:25] = True
    expected = torch.from_numpy(distance_transform_edt(flags.numpy())).float()
    assert float(expected.max()) > 6
    torch.testing.assert_close(_to_others(flags), expected.clamp(max=6))


def test_a_box_has_a_margin_where_the_picture_has_room() -> None:
    flags = torch.zeros(9, 12, dtype=torch.bool)
    flags[1, 11] = flags[4, 6] = True
    assert box_of(flags) == (slice(0, 8), slice(3, 12))
