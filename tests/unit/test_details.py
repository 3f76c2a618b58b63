"""Details carried from the front picture, on a slab whose every pixel is known."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import orbit, rays
from img2mesh.models.details import agreeing, with_details_of

SIDE, HALF = 64, 0.5
CAMERAS = orbit(size_px=SIDE)
GREY = 0.5


def slab() -> tuple[Tensor, Tensor]:
    """What each view sees of the square z = 0 from before, or of its back at z = -0.4: texture coordinates and z-depth."""
    origins, directions = rays(CAMERAS)
    facing = directions[..., 2]
    height = torch.where(facing < 0, 0.0, -0.4)
    along = (height - origins[..., 2]) / torch.where(facing.abs() < 1e-3, torch.inf, facing)
    points = origins + along[..., None] * directions
    covered = (points[..., :2].abs() < HALF).all(-1) & (along > 0) & torch.isfinite(along)
    return points[..., :2] * covered[..., None], along * covered


def stripes(places: Tensor, covered: Tensor, strength: float) -> Tensor:
    """Horizontal and vertical stripes around grey, over white."""
    x, y = places.unbind(-1)
    colour = GREY + strength * torch.sin(x * 12) * torch.cos(y * 12)
    return torch.where(covered, colour, torch.ones(()))[..., None, :, :].expand(*colour.shape[:-2], 3, SIDE, SIDE)


def within(depth: Tensor) -> Tensor:
    """Pixels clear of every border."""
    return -functional.max_pool2d(-(depth > 0).float()[:, None], 5, 1, 2)[:, 0] > 0


@pytest.mark.parametrize("generated", [False, True])
def test_what_the_front_has_and_its_decode_lacks_appears_where_the_same_points_are_seen_and_nowhere_else(
    *, generated: bool
) -> None:
    places, depth = slab()
    true, flat = (stripes(places, depth > 0, strength) for strength in (0.1, 0.0))
    front = torch.cat([true[0], (depth[:1] > 0).float()])
    made = with_details_of(front, flat[0], flat, depth, CAMERAS, generated=generated)
    inside = within(depth)
    left = [float((made - true)[view].abs().mean(0)[inside[view]].mean()) for view in (1, 5)]
    before = [float((flat - true)[view].abs().mean(0)[inside[view]].mean()) for view in (1, 5)]
    assert all(now < 0.45 * then for now, then in zip(left, before, strict=True))
    # The back is another surface, and background is none.
    assert torch.equal(made[3], flat[3])
    assert torch.equal(made[depth[:, None].expand_as(made) == 0], torch.ones(int((depth == 0).sum()) * 3))


@pytest.mark.parametrize("generated", [False, True])
def test_views_come_to_agree_about_what_they_see_of_the_same_points_and_front_and_back_stay(*, generated: bool) -> None:
    places, depth = slab()
    true = stripes(places, depth > 0, 0.1)
    off = torch.tensor([0.0, 0.05, 0.0, 0.0, 0.0, -0.05])[:, None, None, None]
    made = agreeing(true + off * (depth[:, None] > 0), (depth > 0).float(), depth, CAMERAS, generated=generated)
    inside = within(depth)
    left = [float((made - true)[view].abs().mean(0)[inside[view]].mean()) for view in (1, 5)]
    assert max(left) < 0.04
    assert torch.equal(made[[0, 3]], true[[0, 3]])


@pytest.mark.parametrize("generated", [False, True])
def test_what_looks_otherwise_stays_as_it_is(*, generated: bool) -> None:
    places, depth = slab()
    true, flat = (stripes(places, depth > 0, strength) for strength in (0.1, 0.0))
    other = torch.where(depth[:, None] > 0, torch.tensor([0.9, 0.1, 0.1])[:, None, None], flat)
    made = with_details_of(torch.cat([true[0], (depth[:1] > 0).float()]), flat[0], other, depth, CAMERAS, generated=generated)
    assert float((made - other).abs().amax(1)[within(depth)].max()) < 0.01
    mixed = torch.cat([true[:1], other[1:]])
    agreed = agreeing(mixed, (depth > 0).float(), depth, CAMERAS, generated=generated)
    assert float((agreed - mixed).abs().amax(1)[within(depth)].max()) < 0.01
