"""Details that the latents have lost, carried from the front picture to the views that see the same points.

The last step of the depth-guided decode, and one with nothing to learn: depth-truncated epipolar attention whose queries and
keys are decoded colours and whose values are what the autoencoder has lost of the front.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras, pixel_centres, project, unproject
from img2mesh.geometry.epipolar import sample_offsets
from img2mesh.models.autoencoder import BACK, FRONT

# Points on each ray, and half the length they span, scene units.
_SAMPLES, _RADIUS = 5, 0.06
# A point is the one that the front sees where depths differ by no more than about this, scene units, and colours by this.
_DEPTH, _ALIKE = 0.06, 0.15
# As much as so many points that agree fully speaks for no change.
_DOUBT = 0.3
_COVERED, _SMOOTH_PX = 0.95, 3


def with_details_of(
    front: Float[Tensor, "4 height width"],
    decoded: Float[Tensor, "3 height width"],
    rgb: Float[Tensor, "view 3 height width"],
    depth: Float[Tensor, "view height width"],
    cameras: Cameras,
) -> Float[Tensor, "view 3 height width"]:
    """Decoded views, to which what the decoded front lacks of the front is added where they show the same points.

    All pictures are over white, in [0, 1].

    Args:
        front: The picture and its coverage.
        decoded: What the autoencoder makes of the picture.
        rgb: Views of the same latents.
        depth: z-depth of each view, scene units, 0 in the background.
    """
    known = torch.cat([front[:3] - decoded, _smooth(decoded), depth[FRONT][None], (front[3:] > _COVERED).float()])
    made = rgb.clone()
    for view in range(len(rgb)):
        # Front and back have no point in common, only depths near each other where an object is thin.
        if view not in (FRONT, BACK):
            made[view] += _details(known, _smooth(rgb[view]), depth[view], cameras[[FRONT]], cameras[[view]])
    return made.clamp(0, 1)


def _details(
    known: Float[Tensor, "8 height width"],
    asked: Float[Tensor, "3 height width"],
    depth: Float[Tensor, "height width"],
    front: Cameras,
    camera: Cameras,
) -> Float[Tensor, "3 height width"]:
    """The mean of what is lost at the points near one view's surface, by how surely the front sees the same points."""
    height, width = depth.shape
    offsets = sample_offsets(_SAMPLES, _RADIUS).to(depth)[:, None, None]
    pixels = pixel_centres(width, height).to(depth).expand(1, _SAMPLES, -1, -1, -1)
    positions, behind = project(front, unproject(camera, pixels, (depth + offsets)[None]))
    grid = positions[0] / positions.new_tensor([width, height]) * 2 - 1
    seen = functional.grid_sample(known.expand(_SAMPLES, -1, -1, -1), grid, align_corners=False)
    lost, colours, surface, covered = seen.split((3, 3, 1, 1), dim=1)
    unlike = (colours - asked).square().sum(1, keepdim=True) / _ALIKE**2
    hidden = (surface - behind[0][:, None]).square() / _DEPTH**2
    far = (offsets[:, None] / _RADIUS).square() * 2
    sure = torch.exp(-(unlike + hidden + far) / 2) * (covered > 0.99) * (depth > 0)
    return (sure * lost).sum(0) / (sure.sum(0) + _DOUBT)


def _smooth(picture: Float[Tensor, "channel height width"]) -> Float[Tensor, "channel height width"]:
    return functional.avg_pool2d(picture, _SMOOTH_PX, stride=1, padding=_SMOOTH_PX // 2, count_include_pad=False)
