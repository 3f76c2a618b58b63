"""Colours that the autoencoder gets wrong, put right by the one view whose colours are known.

A small autoencoder keeps lightness and loses some hues: grass comes back brown. It does so alike in all views of an object, and
of the front both are known: the picture, and what becomes of it.
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
_CHUNK = 4096


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
    own = ((found - 1 + share) / share).clamp(0, 1)
    change = torch.cat([_mean_change(part, colours, changes) for part in own.split(_CHUNK)])
    image[covered] = (found + change * share).clamp(0, 1)
    return image.movedim(-1, 1)


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
