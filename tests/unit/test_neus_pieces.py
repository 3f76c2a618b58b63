"""Pieces of smooth surface against shapes whose outlines, depths and slopes are known."""

import math

import torch
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, orbit, rays
from img2mesh.geometry.views import Views
from img2mesh.neus.pieces import Pieces, pieces

SIDE = 48
# Scene units of a pixel: the frame is two wide.
PIXEL = 2 / SIDE
FACING = torch.tensor([0.0, 0.0, 1.0])


def view_of(normals: Tensor, rgb: Tensor | None = None, alpha: Tensor | None = None) -> Views:
    """The front view of a surface with these normals [row, column, 3], all of one colour if none is given."""
    grey = torch.full((SIDE, SIDE, 3), 0.5)
    return Views(
        cameras=orbit((0.0,), size_px=SIDE),
        rgb=(grey if rgb is None else rgb).movedim(-1, 0)[None].clone(),
        alpha=torch.ones(1, SIDE, SIDE) if alpha is None else alpha[None].clone(),
        normals=normals.movedim(-1, 0)[None].clone(),
    )


def pieces_of(views: Views) -> Pieces:
    """Those of the front; how far away things are makes no difference to a parallel view."""
    return pieces(views, 0, torch.zeros(SIDE, SIDE))


def everywhere(normal: Tensor) -> Tensor:
    return normal.expand(SIDE, SIDE, 3).clone()


def tilted(angle_deg: float) -> Tensor:
    """A normal turned from the camera to its right: the surface goes back by the angle's tangent to the right."""
    angle = math.radians(angle_deg)
    return torch.tensor([math.sin(angle), 0.0, math.cos(angle)])


def test_two_colours_are_two_flat_pieces() -> None:
    rgb = torch.full((SIDE, SIDE, 3), 0.2)
    rgb[:, SIDE // 2 :] = 0.8
    found = pieces_of(view_of(everywhere(FACING), rgb))
    left, right = found.label[:, : SIDE // 2].unique(), found.label[:, SIDE // 2 :].unique()
    assert found.count == 2
    assert len(left) == len(right) == 1
    assert int(left) != int(right)
    assert float(found.depth.abs().max()) < 1e-6
    assert float(found.slopes.abs().max()) < 1e-6


def test_a_crease_parts_pieces_of_one_colour() -> None:
    normals = everywhere(tilted(30))
    normals[:, : SIDE // 2] = tilted(-30)
    found = pieces_of(view_of(normals))
    assert found.count == 2
    assert int(found.label[0, 0]) != int(found.label[0, -1])


def test_a_step_shows_as_two_pieces_only_where_something_lies_between() -> None:
    alpha = torch.ones(SIDE, SIDE)
    assert pieces_of(view_of(everywhere(FACING), alpha=alpha)).count == 1
    alpha[:, 20:22] = 0.5
    found = pieces_of(view_of(everywhere(FACING), alpha=alpha))
    assert found.count == 2
    assert bool((found.label[:, 20:22] == -1).all())


def test_a_ramp_has_the_depth_and_the_slope_of_its_angle() -> None:
    found = pieces_of(view_of(everywhere(tilted(30))))
    rise = math.tan(math.radians(30)) * PIXEL
    expected = (torch.arange(SIDE) - (SIDE - 1) / 2) * rise
    assert found.count == 1
    torch.testing.assert_close(found.depth, expected.expand(SIDE, SIDE), atol=5e-4, rtol=0)
    torch.testing.assert_close(found.slopes, torch.tensor([0, rise])[:, None, None].expand(2, SIDE, SIDE), atol=1e-6, rtol=0)


def test_a_roof_goes_down_with_its_rows() -> None:
    # Turned up: further down in the picture it is nearer.
    angle = math.radians(40)
    found = pieces_of(view_of(everywhere(torch.tensor([0.0, math.sin(angle), math.cos(angle)]))))
    steps = found.depth.diff(dim=0)
    torch.testing.assert_close(steps, torch.full_like(steps, -math.tan(angle) * PIXEL), atol=5e-5, rtol=0)


def test_a_ball_is_round_by_its_normals_alone() -> None:
    radius = 0.8
    places = (torch.arange(SIDE) + 0.5) * PIXEL - 1
    y, x = -places[:, None].expand(SIDE, SIDE), places.expand(SIDE, SIDE)
    height = (radius**2 - x**2 - y**2).clamp(min=0).sqrt()
    normals = torch.stack([x, y, height], dim=-1) / radius
    inside = height / radius > 0.5
    found = pieces_of(view_of(normals * inside[..., None], alpha=inside.float()))
    assert found.count == 1
    chosen = found.label == 0
    relative = -height[chosen] + height[chosen].mean()
    assert float((found.depth[chosen] - relative).abs().max()) < 0.01 * radius


def test_surfaces_seen_along_belong_to_no_piece() -> None:
    assert pieces_of(view_of(everywhere(tilted(75)))).count == 0
    assert pieces_of(view_of(everywhere(-FACING))).count == 0


def test_a_pixel_like_no_neighbour_belongs_to_no_piece() -> None:
    rgb = torch.full((SIDE, SIDE, 3), 0.2)
    rgb[10, 10] = 0.9
    found = pieces_of(view_of(everywhere(FACING), rgb))
    assert found.count == 1
    assert int(found.label[10, 10]) == -1


def test_wide_pieces_are_three_pixels_wide() -> None:
    alpha = torch.zeros(SIDE, SIDE)
    alpha[5:8] = 1
    alpha[20:22] = 1
    wide = pieces_of(view_of(everywhere(FACING), alpha=alpha)).wide
    assert bool(wide[5:8, 5:40].all())
    assert not bool(wide[20:22].any())


def test_a_piece_is_cut_where_a_number_jumps() -> None:
    found = pieces_of(view_of(everywhere(tilted(20))))
    beyond = torch.zeros(SIDE, SIDE)
    beyond[:, 10:30] = 5
    parts = found.cut(beyond, 1.5)
    assert parts.count == 3
    assert len(parts.label[:, 10:30].unique()) == 1
    assert int(parts.label[0, 9]) != int(parts.label[0, 10])
    assert int(parts.label[0, 0]) != int(parts.label[0, -1])
    assert torch.equal(parts.depth, found.depth)
    assert found.cut(beyond, 6.0).count == 1


def test_a_wall_seen_in_perspective_has_its_depth_far_off_the_axis_too() -> None:
    # A camera at +z that looks along -z, 3 away, with a field of view of 60 degrees.
    pose = torch.diag(torch.tensor([1.0, -1.0, -1.0, 1.0]))
    pose[2, 3] = 3.0
    cameras = Cameras(
        projection="perspective",
        world_from_camera=pose[None],
        focal_px=torch.full((1,), SIDE / 2 / math.tan(math.radians(30))),
        centre_px=torch.full((1, 2), SIDE / 2),
        width_px=SIDE,
        height_px=SIDE,
    )
    normal = torch.nn.functional.normalize(torch.tensor([0.5, 0.2, 1.0]), dim=0)
    origins, directions = (ray[0] for ray in rays(cameras))
    depth = -(origins @ normal) / (directions @ normal)
    flat = view_of(everywhere(normal))
    found = pieces(Views(cameras=cameras, rgb=flat.rgb, alpha=flat.alpha, normals=flat.normals), 0, depth)
    assert found.count == 1
    assert float(depth.max() - depth.min()) > 1
    torch.testing.assert_close(found.depth, depth - depth.mean(), atol=0.01, rtol=0)
