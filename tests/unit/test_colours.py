"""Colours put right by the front's, on pictures whose fault is known."""

import torch
from torch import Tensor

from img2mesh.models.colours import decided, steepened, with_colours_of, within

SIDE = 48
GRASS, CLAY, SLATE = (torch.tensor(colour)[:, None, None] for colour in ([0.4, 0.6, 0.2], [0.6, 0.4, 0.3], [0.2, 0.2, 0.7]))
# What the autoencoder of these tests makes of grass.
BROWN = torch.tensor([0.6, 0.6, 0.1])[:, None, None]


def disc(left: Tensor, right: Tensor) -> tuple[Tensor, Tensor]:
    """A disc of two colours over white, and its coverage."""
    places = torch.arange(SIDE) - SIDE / 2 + 0.5
    alpha = ((places[:, None].square() + places.square()).sqrt() < SIDE / 3).float()
    colour = torch.where(places < 0, left, right).expand(3, SIDE, SIDE)
    return colour * alpha + 1 - alpha, alpha


def test_lost_hues_come_back_in_all_views_and_others_stay() -> None:
    front, alpha = disc(GRASS, CLAY)
    decoded, _ = disc(BROWN, CLAY)
    views = torch.stack([disc(BROWN, CLAY)[0], disc(CLAY, BROWN)[0], disc(SLATE, BROWN)[0]])
    true = torch.stack([disc(GRASS, CLAY)[0], disc(CLAY, GRASS)[0], disc(SLATE, GRASS)[0]])
    made = with_colours_of(torch.cat([front, alpha[None]]), decoded, views, alpha.expand(3, -1, -1))
    assert float((views - true).abs().max()) > 0.19
    assert float((made - true).abs().max()) < 0.03


def test_the_background_and_its_borders_stay_white() -> None:
    front, alpha = disc(GRASS, GRASS)
    decoded, _ = disc(BROWN, BROWN)
    faint = alpha * 0.1
    views = (BROWN * faint + 1 - faint)[None]
    made = with_colours_of(torch.cat([front, alpha[None]]), decoded, views, faint[None])
    assert torch.equal(made[:, :, alpha == 0], torch.ones_like(made[:, :, alpha == 0]))
    assert float((made - views).abs().max()) < 0.03


def test_a_front_too_thin_for_any_square_changes_nothing() -> None:
    front, alpha = disc(GRASS, GRASS)
    thin = torch.zeros_like(alpha)
    thin[SIDE // 2] = alpha[SIDE // 2]
    views = disc(BROWN, CLAY)[0][None]
    assert torch.equal(with_colours_of(torch.cat([front, thin[None]]), views[0], views, alpha[None]), views)


def halves(above: Tensor, below: Tensor) -> Tensor:
    """A picture of two colours, one above the other, covered everywhere."""
    return torch.cat([above.expand(3, SIDE // 2, SIDE), below.expand(3, SIDE // 2, SIDE)], dim=1)


def test_a_generated_colour_becomes_the_one_that_the_front_has_at_its_height() -> None:
    front = torch.cat([halves(GRASS, SLATE), torch.ones(1, SIDE, SIDE)])
    unsure = ((GRASS + SLATE) / 2).expand(3, SIDE, SIDE)
    views, covered = torch.stack([unsure, halves(GRASS, SLATE)]), torch.ones(2, SIDE, SIDE)
    made = decided(front, views, covered, covered)
    rows = torch.arange(SIDE)
    far = (rows - SIDE / 2 + 0.5).abs() > 2
    # Of a colour halfway, lightness comes half of the way.
    light = (front[:3] - views).mean(1, keepdim=True) / 2
    assert float((made + light - front[:3])[:, :, far].abs().max()) < 0.05


def test_a_colour_that_the_front_lacks_stays_where_the_generator_is_sure() -> None:
    front = torch.cat([torch.tensor([0.1, 0.8, 0.8])[:, None, None].expand(3, SIDE, SIDE), torch.ones(1, SIDE, SIDE)])
    red = torch.tensor([0.9, 0.1, 0.1])[:, None, None].expand(1, 3, SIDE, SIDE)
    sure = torch.ones(1, SIDE, SIDE)
    assert float((decided(front, red, sure, sure) - red).abs().max()) < 0.02
    faint = sure * 0.2
    made = decided(front, red * faint + 1 - faint, faint, sure)
    assert float((made - front[:3]).abs().max()) < 0.1


def test_what_other_outlines_add_has_the_colours_around_and_what_they_take_is_white() -> None:
    across = torch.arange(32.0)
    decoded, known = ((across - 16).abs() < 8).float().expand(1, 32, 32), ((across - 18).abs() < 8).float().expand(1, 32, 32)
    red = torch.tensor([0.8, 0.1, 0.1])[None, :, None, None]
    made = within(red * decoded[:, None] + 1 - decoded[:, None], decoded, known)
    assert torch.allclose(made, red * known[:, None] + 1 - known[:, None], atol=0.03)
    assert torch.equal(within(torch.ones(1, 3, 8, 8), torch.zeros(1, 8, 8), torch.ones(1, 8, 8)), torch.ones(1, 3, 8, 8))


def test_outside_the_outlines_everything_is_white_and_outlines_are_steep() -> None:
    front = torch.cat([GRASS.expand(3, SIDE, SIDE), torch.ones(1, SIDE, SIDE)])
    alpha = torch.linspace(0, 1, SIDE).expand(1, SIDE, SIDE)
    outlines = steepened(alpha)
    made = decided(front, (GRASS * alpha + 1 - alpha)[None], alpha, outlines)
    assert torch.equal(made[outlines.expand(3, -1, -1)[None] == 0], torch.ones(int((outlines == 0).sum()) * 3))
    assert int(((outlines > 0) & (outlines < 1))[0, 0].sum()) <= SIDE // 8 + 1
    assert torch.equal(outlines >= 0.5, alpha >= 0.5)
