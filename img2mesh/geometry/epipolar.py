"""Where the points near a pixel's surface lie in the other views."""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import Cameras, facing, pixel_centres, project, unproject

# A place in no image, which reaches from -1 to 1.
_OUTSIDE = 3.0


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
    cameras: Cameras,
    view: int,
    depth: Float[Tensor, "view height width"],
    offsets: Float[Tensor, "sample"],
    hidden: float | None = None,
) -> Float[Tensor, "source sample height width 2"]:
    """Positions in the other views of points on one view's rays, for `grid_sample(align_corners=False)`.

    Sources come in cyclic order, view + 1 first, so that a source's place says where it stands relative to the view.

    Args:
        depth: z-depth of the views' surfaces, scene units, 0 in the background.
        offsets: z-depths of the points relative to the view's.
        hidden: Points this far behind a source's surface are moved out of its image, scene units; None: none are. A view from
            the opposite side sees the same outline on the same ray, whatever is in between: nothing is hidden from it.
    """
    depth, offsets = depth.float(), offsets.float()
    count, height, width = depth.shape
    pixels = pixel_centres(width, height).to(depth)
    depths = depth[view] + offsets[:, None, None]
    sources = [(view + step) % count for step in range(1, count)]
    # Half precision would move the points by half a pixel.
    with torch.autocast(depth.device.type, enabled=False):
        points = unproject(cameras[[view]], pixels.expand(1, len(offsets), -1, -1, -1), depths[None])
        positions, reach = project(cameras[sources], points.expand(count - 1, -1, -1, -1, -1))
    grid = positions / positions.new_tensor([width, height]) * 2 - 1
    if hidden is None:
        return grid
    there = functional.grid_sample(depth[sources, None], grid.flatten(1, 2), mode="nearest", align_corners=False)
    there = there[:, 0].view_as(reach)
    beside = ~facing(cameras)[view, sources][:, None, None, None]
    return grid.masked_fill(((there > 0) & (reach > there + hidden) & beside)[..., None], _OUTSIDE)


def bilinear_corners(
    grid: Float[Tensor, "source sample ray 2"], width: int, height: int
) -> tuple[Int[Tensor, "ray sample source_corner"], Float[Tensor, "ray sample source_corner"]]:
    """Rows of a table of all sources' pixels, and weights, whose weighted sum is the sum of all sources' interpolated values.

    Corners outside the image have weight zero, as in `grid_sample(padding_mode="zeros", align_corners=False)`.

    Args:
        grid: Positions in [-1, 1], as `epipolar_grid` gives them.
        width: Of the sources' images, pixels.
        height: Of the sources' images, pixels.
    """
    size = grid.new_tensor([width, height])
    position = ((grid + 1) * size - 1) / 2
    low = position.floor()
    share = position - low
    first_row = torch.arange(len(grid), device=grid.device)[:, None, None] * (width * height)
    rows, weights = [], []
    for corner in ((0, 0), (1, 0), (0, 1), (1, 1)):
        place = low + low.new_tensor(corner)
        inside = ((place >= 0) & (place < size)).all(dim=-1)
        x, y = torch.minimum(place.clamp(min=0), size - 1).long().unbind(dim=-1)
        rows.append(first_row + y * width + x)
        near = torch.where(low.new_tensor(corner) > 0, share, 1 - share)
        weights.append(near.prod(dim=-1) * inside)
    # [corner, source, sample, ray] -> [ray, sample, source and corner]
    return torch.stack(rows).int().permute(3, 2, 1, 0).flatten(2), torch.stack(weights).permute(3, 2, 1, 0).flatten(2)


@dataclass(frozen=True, kw_only=True)
class Sight:
    """Where the points of one view's rays are seen.

    Attributes:
        rays: Pixels with depth, as places in the flattened image.
        rows: In a table of all pixels of all sources, [source * pixel, feature].
        weights: Of those rows.
        pixels: Of each source's image.
    """

    rays: Int[Tensor, "ray"]
    rows: Int[Tensor, "ray sample source_corner"]
    weights: Float[Tensor, "ray sample source_corner"]
    pixels: int

    def look_up(self, table: Float[Tensor, "row feature"], part: slice) -> Float[Tensor, "ray sample feature"]:
        """What some of the rays see at their points: the sum over all sources."""
        rows, weights = self.rows[part], self.weights[part].to(table)
        seen = functional.embedding_bag(rows.flatten(0, 1), table, per_sample_weights=weights.flatten(0, 1), mode="sum")
        return seen.reshape(*rows.shape[:2], table.shape[1])

    def scatter(self, seen: Float[Tensor, "ray sample feature"], sources: int) -> Float[Tensor, "source pixel feature"]:
        """The transpose of `look_up`: each row's share of what all rays have seen."""
        table = seen.new_zeros(1, 1).expand(sources * self.pixels, seen.shape[2]).requires_grad_()
        with torch.enable_grad():
            looked_up = self.look_up(table, slice(None))
        [spread] = torch.autograd.grad(looked_up, table, seen)
        return spread.reshape(sources, self.pixels, -1)


@dataclass(frozen=True, kw_only=True)
class Sightings:
    """Where the points near each view's surface lie in the other views.

    Attributes:
        depth: z-depth of the surfaces, scene units, 0 in the background.
        offsets: z-depths of the points relative to them.
        hidden: How far behind another view's surface a point is hidden from it, see `epipolar_grid`.
    """

    cameras: Cameras
    depth: Float[Tensor, "view height width"]
    offsets: Float[Tensor, "sample"]
    hidden: float | None = None

    @property
    def samples(self) -> int:
        """Points on each ray."""
        return len(self.offsets)

    def of(self, view: int) -> Sight:
        """Where the points of one view are seen; computed anew at each call, since it is quicker than it is large."""
        height, width = self.depth.shape[1:]
        rays = self.depth[view].flatten().nonzero()[:, 0]
        grid = epipolar_grid(self.cameras, view, self.depth, self.offsets, self.hidden).flatten(2, 3)[:, :, rays]
        rows, weights = bilinear_corners(grid, width, height)
        return Sight(rays=rays, rows=rows, weights=weights, pixels=width * height)
