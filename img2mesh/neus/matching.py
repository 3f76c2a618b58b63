"""Semi-global matching of one view: the depth of each pixel, of which normals tell how it goes on to the neighbours.

Source: Hirschmüller, Stereo processing by semiglobal matching and mutual information, 2008, with four of its directions; the
slopes as in Scharstein et al., Semi-global stereo matching with surface orientation priors, 2017.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor

# Cost of a level that is out of the question, and of a surface that leaves its slope by one level from a pixel to the next.
NEVER, _BEND = 4.0, 0.3


def matched(
    cost: Float[Tensor, "depth height width"], slope: Float[Tensor, "2 height width"], jump: Float[Tensor, "2 height width"]
) -> Int[Tensor, "height width"]:
    """The level of each pixel that costs least together with those of the pixels along its row and its column.

    Args:
        cost: Of each level of each pixel; a line of pixels pays their sum.
        slope: Levels from a pixel to the next row, and to the next column.
        jump: What a surface pays that goes on at any other level in the next row, and in the next column.
    """
    down = _along(cost, slope[0], jump[0])
    across = _along(cost.mT.contiguous(), slope[1].T, jump[1].T).mT
    # Both directions of both axes have the pixel's own cost in them.
    return (down + across - 3 * cost).argmin(0)


def _along(
    cost: Float[Tensor, "depth steps lines"], slope: Float[Tensor, "steps lines"], jump: Float[Tensor, "steps lines"]
) -> Float[Tensor, "depth steps lines"]:
    """Least cost of the lines up to each pixel from their one end, plus that from the other."""
    place = torch.cat([torch.zeros_like(slope[:1]), ((slope[:-1] + slope[1:]) / 2).cumsum(0)]).round().long()
    rise, count = place.diff(dim=0), len(slope)
    total = torch.zeros_like(cost)
    here = cost[:, 0]
    total[:, 0] += here
    for step in range(1, count):
        here = cost[:, step] + _continued(here, rise[step - 1], jump[step - 1])
        total[:, step] += here
    here = cost[:, -1]
    total[:, -1] += here
    for step in range(count - 2, -1, -1):
        here = cost[:, step] + _continued(here, -rise[step], jump[step])
        total[:, step] += here
    return total


def _continued(before: Float[Tensor, "depth lines"], rise: Int[Tensor, "lines"], jump: Float[Tensor, "lines"]) -> Tensor:
    """What it costs to come to each level from the pixel before, beyond the least that it costs to be there."""
    least, depth = before.amin(0), len(before)
    source = torch.arange(depth)[:, None] - rise
    straight = before.gather(0, source.clamp(0, depth - 1)).masked_fill_((source < 0) | (source >= depth), torch.inf)
    cheapest = torch.minimum(straight, least + jump)
    cheapest[1:] = torch.minimum(cheapest[1:], straight[:-1] + _BEND)
    cheapest[:-1] = torch.minimum(cheapest[:-1], straight[1:] + _BEND)
    return cheapest.sub_(least)
