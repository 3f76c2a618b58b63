"""Colours that small networks get wrong, put right by the one view whose colours are known.

A small autoencoder keeps lightness and loses some hues: grass comes back brown. It does so alike in all views of an object, and
of the front both are known: the picture, and what becomes of it. A small generator, where it is unsure, paints the mean of all
objects, which is wood; of the front it is known what colours there are, and how high.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

# Colours are compared as means over squares of this side that lie on the object by this share: details are lost too.
_SQUARE_PX, _ON_OBJECT = 6, 0.8
# Colours in [0, 1] that differ by this are alike.
_ALIKE = 0.1
# As much as so many squares of the right colour speaks for no change at all.
_DOUBT = 3.0
# Pixels covered more than this show the object alone; of those covered less than that its colour cannot be told.
_COVERED, _FAINT = 0.95, 0.1
# Pixels covered less than this take the colour of those around, as means over squares of this side; where
# these too are covered hardly at all, the colour stays.
_TELLING, _AROUND_PX, _HARDLY = 0.5, 5, 0.002
_CHUNK = 4096
# A generated colour is one of those that the front has up to so far above and below, give or take so much.
_REACH_PX, _UNSURE = 1, 0.3
# This share of what the front has at a height speaks for a colour as much as the generator does.
_LITTLE = 0.05
# How many times steeper an outline is than the generator's coverage, which is a mean over the outlines that may be.
_STEEPER = 8.0


def with_colours_of(
    front: Float[Tensor, "4 height width"],
    decoded: Float[Tensor, "3 height width"],
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
) -> Float[Tensor, "view 3 height width"]:
    """Decoded views, each of whose colours changes as colours like it change from the decoded front to the front itself.

    Colours that the front does not have stay. All pictures are over white, in [0, 1].

    Args:
        front: The picture and its coverage.
        decoded: What the autoencoder makes of the picture.
        rgb: Views that it has decoded, or another decoder of its latents.
        alpha: Their coverage.

    Source: Nadaraya, On estimating regression, 1964, in the space of colours.
    """
    colours, changes = _pairs(front, decoded)
    image, covered = rgb.movedim(1, -1).clone(), alpha > _FAINT
    found, share = image[covered], alpha[covered][:, None]
    # Of what is covered in part only the object's own colour changes, not the white behind it.
    change = torch.cat([_mean_change(part, colours, changes) for part in _own(found, share).split(_CHUNK)])
    image[covered] = (found + change * share).clamp(0, 1)
    return image.movedim(-1, 1)


def decided(
    front: Float[Tensor, "4 height width"],
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
    outlines: Float[Tensor, "view height width"],
) -> Float[Tensor, "view 3 height width"]:
    """Generated views within given outlines, in colours that the front has.

    Around an upright axis and through parallel rays a point has the same height in all views. So each colour becomes the mean
    of those that the front has at its height, by how likely it is one of them; what is like none stays.

    Args:
        front: The picture and its coverage, over white, in [0, 1].
        rgb: The generated views, over white, in [0, 1].
        alpha: Their coverage as generated.
        outlines: Their coverage from now on.

    Source: a posterior mean, with the front's colours for prior and normal errors of the generator.
    """
    own = _own(rgb.movedim(1, -1), alpha[..., None])
    for row in range(own.shape[1]):
        near = slice(max(0, row - _REACH_PX), row + _REACH_PX + 1)
        known = front[:3, near, :][:, front[3, near] > _COVERED].T
        painted = outlines[:, row] > 0
        if len(known) and painted.any():
            own[:, row][painted] = _likeliest(own[:, row][painted], alpha[:, row][painted][:, None], known)
    return (own * outlines[..., None] + 1 - outlines[..., None]).movedim(-1, 1)


def within(
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
    outlines: Float[Tensor, "view height width"],
) -> Float[Tensor, "view 3 height width"]:
    """Views over white with other outlines than they have: what was covered little takes the colour of what is around.

    Args:
        rgb: In [0, 1].
        alpha: Their coverage.
        outlines: Their coverage from now on.
    """
    share = alpha[:, None]
    painted = torch.cat([(rgb - 1 + share).clamp(min=0), share], dim=1)
    around = functional.avg_pool2d(painted, _AROUND_PX, stride=1, padding=_AROUND_PX // 2)
    filled = (around[:, :3] + _HARDLY * rgb) / (around[:, 3:] + _HARDLY)
    own = torch.where(share > _TELLING, painted[:, :3] / share.clamp(min=_TELLING), filled)
    return own.clamp(0, 1) * outlines[:, None] + 1 - outlines[:, None]


def steepened(alpha: Float[Tensor, "view height width"]) -> Float[Tensor, "view height width"]:
    """Outlines out of generated coverage, which is a mean over all the outlines that may be."""
    return ((alpha - 0.5) * _STEEPER + 0.5).clamp(0, 1)


def _own(found: Float[Tensor, "*pixels 3"], share: Float[Tensor, "*pixels 1"]) -> Float[Tensor, "*pixels 3"]:
    """The colours of what covers pixels by a share, without the white behind it."""
    return ((found - 1 + share) / share.clamp(min=_FAINT)).clamp(0, 1)


def _likeliest(
    found: Float[Tensor, "pixels 3"], share: Float[Tensor, "pixels 1"], known: Float[Tensor, "colours 3"]
) -> Float[Tensor, "pixels 3"]:
    """The mean of known colours. One found by a share tells less: its error is divided by the share, which has its own."""
    told = share.square()
    likely = torch.exp(-(torch.cdist(found, known) * told / _UNSURE).square() / 2) / len(known)
    kept = _LITTLE * told
    meant = (likely @ known + kept * found) / (likely.sum(1, keepdim=True) + kept)
    # Light and shade are another matter than hues: there a generator that is sure counts as much as the front.
    return (meant + told / 2 * (found - meant).mean(1, keepdim=True)).clamp(0, 1)


def _pairs(
    front: Float[Tensor, "4 height width"], decoded: Float[Tensor, "3 height width"]
) -> tuple[Float[Tensor, "squares 3"], Float[Tensor, "squares 3"]]:
    """Mean colour of each square of the decoded front that lies on the object, and how much the front's differs."""
    covered = (front[3:] > _COVERED).float()
    both = torch.cat([decoded * covered, (front[:3] - decoded) * covered, covered])
    means = functional.avg_pool2d(both[None], _SQUARE_PX, stride=_SQUARE_PX // 2)[0].flatten(1).T
    means = means[means[:, 6] > _ON_OBJECT]
    return means[:, :3] / means[:, 6:], means[:, 3:6] / means[:, 6:]


def _mean_change(
    found: Float[Tensor, "pixels 3"], colours: Float[Tensor, "squares 3"], changes: Float[Tensor, "squares 3"]
) -> Float[Tensor, "pixels 3"]:
    alike = torch.exp(-torch.cdist(found, colours).square() / (2 * _ALIKE**2))
    return alike @ changes / (alike.sum(1, keepdim=True) + _DOUBT)
