"""Matching against every possible assignment of levels, and on surfaces whose depth is known."""

import itertools

import pytest
import torch

from img2mesh.neus.matching import NEVER, matched

# The ends of the range are dear, as they are where surfaces cannot be.
DEPTH, LENGTH, BEND = 6, 5, 0.3


def dearness(levels: tuple[int, ...], cost: torch.Tensor, rise: list[int], jump: torch.Tensor) -> float:
    """What a row of pixels pays at these levels."""
    total = sum(float(cost[level, place]) for place, level in enumerate(levels))
    for place, (before, after) in enumerate(itertools.pairwise(levels)):
        off = abs(after - before - rise[place])
        total += 0 if off == 0 else min(BEND if off == 1 else torch.inf, float(jump[place]))
    return total


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("rise", [0, 1, -1])
def test_each_pixel_of_a_row_has_its_level_of_the_cheapest_row(seed: int, rise: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    cost = torch.rand(DEPTH, LENGTH, generator=generator)
    cost[0] = cost[-1] = NEVER
    jump = torch.rand(LENGTH, generator=generator)
    everything = itertools.product(range(DEPTH), repeat=LENGTH)
    best = min(everything, key=lambda levels: dearness(levels, cost, [rise] * (LENGTH - 1), jump))
    slope = torch.stack([torch.zeros(1, LENGTH), torch.full((1, LENGTH), float(rise))])
    found = matched(cost[:, None], slope, torch.stack([torch.zeros(1, LENGTH), jump[None]]))
    assert tuple(found[0].tolist()) == best


@pytest.mark.parametrize("axis", [0, 1])
def test_a_ramp_without_marks_is_held_by_its_ends(axis: int) -> None:
    side, slope = 24, 0.4
    ramp = (3 + slope * torch.arange(side)).expand(side, side)
    level = torch.arange(20)[:, None, None]
    cost = ((level - ramp).abs() >= 1).float()
    cost[:, :, 2:-2] = 0.5
    slopes = torch.stack([torch.zeros(side, side), torch.full((side, side), slope)])
    if axis == 0:
        ramp, cost, slopes = ramp.T, cost.mT, slopes.flip(0).mT
    found = matched(cost, slopes, torch.full((2, side, side), 1.5))
    assert float((found - ramp).abs().max()) <= 1


def test_two_plains_part_where_both_are_marked() -> None:
    cost = torch.full((10, 16, 16), 1.0)
    cost[2, :, :8] = cost[7, :, 8:] = 0
    cost[:, :, 3:6] = cost[:, :, 10:13] = 0.5
    found = matched(cost, torch.zeros(2, 16, 16), torch.full((2, 16, 16), 1.5))
    assert bool((found[:, :8] == 2).all())
    assert bool((found[:, 8:] == 7).all())
