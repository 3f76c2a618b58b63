"""Where the points near a pixel's surface lie in the other views."""

import torch
from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.cameras import Cameras, pixel_centres, project, unproject


def sample_offsets(samples: int, radius: float, generator: torch.Generator | None = None) -> Float[Tensor, "sample"]:
    """Depths relative to the surface, one in each of equal strata of [-radius, radius].

    Args:
        samples: Number of strata.
        radius: Scene units.
        generator: Draws within the strata; without one, their centres.
    """
    position = torch.full((samples,), 0.5) if generator is None else torch.rand(samples, generator=generator)
    return ((torch.arange(samples) + position) / samples * 2 - 1) * radius


def epipolar_grid(
    cameras: Cameras, view: int, depth: Float[Tensor, "height width"], offsets: Float[Tensor, "sample"]
) -> Float[Tensor, "source sample height width 2"]:
    """Positions in the other views of points on one view's rays, for `grid_sample(align_corners=False)`.

    Sources come in cyclic order, view + 1 first, so that a source's place says where it stands relative to the view.

    Args:
        depth: z-depth of the view's surface, scene units.
        offsets: z-depths of the points relative to it.
    """
    depth, offsets = depth.float(), offsets.float()
    count, (height, width) = len(cameras), depth.shape
    pixels = pixel_centres(width, height).to(depth)
    depths = depth + offsets[:, None, None]
    sources = [(view + step) % count for step in range(1, count)]
    # Half precision would move the points by half a pixel.
    with torch.autocast(depth.device.type, enabled=False):
        points = unproject(cameras[[view]], pixels.expand(1, len(offsets), -1, -1, -1), depths[None])
        positions, _ = project(cameras[sources], points.expand(count - 1, -1, -1, -1, -1))
    return positions / positions.new_tensor([width, height]) * 2 - 1
