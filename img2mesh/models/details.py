"""What views owe each other, once it is known where they see the same points: their colours, and the front's details.

The last steps of the depth-guided decode, and ones with nothing to learn: depth-truncated epipolar attention whose queries
and keys are decoded colours and depths. Its values are what the autoencoder has lost of the front, then the colours themselves.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras, facing, pixel_centres, project, unproject
from img2mesh.geometry.epipolar import sample_offsets
from img2mesh.models.autoencoder import BACK, FRONT

# Points on each ray, and half the length they span, scene units.
_SAMPLES, _RADIUS = 5, 0.06
# A point is the one that the other view sees where depths differ by no more than about this, scene units, and colours by one
# of the others: true views differ by what decoding does to them, and details are right in one place; generated ones by more.
_DEPTH, _DETAILED, _ALIKE, _GENERATED = 0.06, 0.07, 0.12, 0.15
# As much as so many points that agree fully speaks for no details, and for a view's own colour.
_DOUBT, _OWN = 0.3, 2.5
_COVERED, _SMOOTH_PX = 0.95, 3


def with_details_of(
    front: Float[Tensor, "4 height width"],
    decoded: Float[Tensor, "3 height width"],
    rgb: Float[Tensor, "view 3 height width"],
    depth: Float[Tensor, "view height width"],
    cameras: Cameras,
    *,
    generated: bool,
) -> Float[Tensor, "view 3 height width"]:
    """Decoded views, to which what the decoded front lacks of the front is added where they show the same points.

    All pictures are over white, in [0, 1].

    Args:
        front: The picture and its coverage.
        decoded: What the autoencoder makes of the picture.
        rgb: Views of the same latents.
        depth: z-depth of each view, scene units, 0 in the background.
        generated: Whether the views are, or true.
    """
    known = _known(front[:3] - decoded, decoded, depth[FRONT], front[3])
    made, opposite = rgb.clone(), facing(cameras)
    for view in range(len(rgb)):
        # From behind, depths are those of the front where an object is thin.
        if view != FRONT and not opposite[view, FRONT]:
            pair = cameras[[FRONT]], cameras[[view]]
            lost, sure = _seen_alike(known, rgb[view], depth[view], *pair, _GENERATED if generated else _DETAILED)
            made[view] += lost / (sure + _DOUBT)
    return made.clamp(0, 1)


def agreeing(
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
    depth: Float[Tensor, "view height width"],
    cameras: Cameras,
    *,
    generated: bool,
) -> Float[Tensor, "view 3 height width"]:
    """Views whose colours are means of what they and the others show of the same points.

    The front stays, which is known, and the back, of which the front tells the outline, and a generator what it is like.

    Args:
        rgb: Over white, in [0, 1], the front first.
        alpha: Their coverage.
        depth: z-depth of each view, scene units, 0 in the background.
        generated: Whether the views are, or true.
    """
    known = [_known(*one) for one in zip(rgb, rgb, depth, alpha, strict=True)]
    made, opposite = rgb.clone(), facing(cameras)
    for view in range(len(rgb)):
        if view in (FRONT, BACK):
            continue
        total, sure = _OWN * rgb[view], torch.full_like(rgb[view, :1], _OWN)
        for other in range(len(rgb)):
            if other != view and not opposite[view, other]:
                pair = cameras[[other]], cameras[[view]]
                colours, share = _seen_alike(known[other], rgb[view], depth[view], *pair, _GENERATED if generated else _ALIKE)
                total, sure = total + colours, sure + share
        made[view] = total / sure
    return made


def _known(
    values: Float[Tensor, "3 height width"],
    colours: Float[Tensor, "3 height width"],
    depth: Float[Tensor, "height width"],
    alpha: Float[Tensor, "height width"],
) -> Float[Tensor, "8 height width"]:
    """What is looked up of a view: values, smooth colours, depth, and what is covered fully."""
    return torch.cat([values, _smooth(colours), depth[None], (alpha[None] > _COVERED).float()])


def _seen_alike(
    known: Float[Tensor, "8 height width"],
    asking: Float[Tensor, "3 height width"],
    depth: Float[Tensor, "height width"],
    source: Cameras,
    camera: Cameras,
    alike: float,
) -> tuple[Float[Tensor, "3 height width"], Float[Tensor, "1 height width"]]:
    """Sum of the source's values at the points near one view's surface, by how surely it sees the same points, and of that."""
    height, width = depth.shape
    offsets = sample_offsets(_SAMPLES, _RADIUS).to(depth)[:, None, None]
    pixels = pixel_centres(width, height).to(depth).expand(1, _SAMPLES, -1, -1, -1)
    positions, behind = project(source, unproject(camera, pixels, (depth + offsets)[None]))
    grid = positions[0] / positions.new_tensor([width, height]) * 2 - 1
    seen = functional.grid_sample(known.expand(_SAMPLES, -1, -1, -1), grid, align_corners=False)
    values, colours, surface, covered = seen.split((3, 3, 1, 1), dim=1)
    unlike = (colours - _smooth(asking)).square().sum(1, keepdim=True) / alike**2
    hidden = (surface - behind[0][:, None]).square() / _DEPTH**2
    far = (offsets[:, None] / _RADIUS).square() * 2
    sure = torch.exp(-(unlike + hidden + far) / 2) * (covered > 0.99) * (depth > 0)
    return (sure * values).sum(0), sure.sum(0)


def _smooth(picture: Float[Tensor, "channel height width"]) -> Float[Tensor, "channel height width"]:
    return functional.avg_pool2d(picture, _SMOOTH_PX, stride=1, padding=_SMOOTH_PX // 2, count_include_pad=False)
