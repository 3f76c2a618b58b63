"""Pieces of smooth surface in one view: which pixels show one piece, and its shape in depth, both from colours and normals.

The normals tie the depths of neighbouring pixels together, so that of a whole piece only one number is open: how deep it lies.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy.sparse import coo_matrix, csr_matrix, identity
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import spsolve
from torch import Tensor

from img2mesh.geometry.cameras import rays
from img2mesh.geometry.views import Views
from img2mesh.neus.sight import COVERED

# Neighbouring pixels of one piece differ by less than this in each channel of colour, and in each component of the normal.
_COLOUR, _NORMAL = 0.05, 0.1
# Normals of surfaces seen at less than this cosine tell too little about their depth.
_STEEP_COSINE = 0.35
# Keeps the mean depth of each piece determined.
_TIE = 1e-6
# From a pixel to the next row, and to the next column.
_AHEAD = ((1, 0), (0, 1))

_Places = tuple[slice, slice]


@dataclass(frozen=True, kw_only=True)
class Pieces:
    """The pieces that one view shows.

    Attributes:
        label: Piece of each pixel, from 0; -1 for a pixel that is like none of its neighbours.
        depth: z-depth relative to the piece's mean, scene units.
        slopes: Change of the z-depth from a pixel to the next row, and to the next column, scene units.
        count: Number of pieces.
    """

    label: Int[Tensor, "height width"]
    depth: Float[Tensor, "height width"]
    slopes: Float[Tensor, "2 height width"]
    count: int

    @property
    def wide(self) -> Bool[Tensor, "height width"]:
        """Pixels about which a piece is three pixels wide in both directions."""
        most, least = (sign * F.max_pool2d(sign * self.label.float()[None], 3, stride=1, padding=1) for sign in (1, -1))
        return F.max_pool2d(((most == least) & (least >= 0)).float(), 3, stride=1, padding=1)[0] > 0

    @property
    def goes_on(self) -> Bool[Tensor, "2 height width"]:
        """Whether the pixel in the next row, and that in the next column, shows the same piece."""
        same = torch.zeros(2, *self.label.shape, dtype=torch.bool)
        for axis, (here, after) in enumerate(map(_pairs, _AHEAD)):
            same[axis][here] = (self.label[here] == self.label[after]) & (self.label[here] >= 0)
        return same

    def within(self, window: tuple[slice, ...]) -> "Pieces":
        """The same in a part of the picture."""
        return replace(self, label=self.label[window], depth=self.depth[window], slopes=self.slopes[(slice(None), *window)])

    def among(self, chosen: Bool[Tensor, "height width"]) -> "Pieces":
        """The connected parts of the pieces among some of the pixels."""
        return self._parts(lambda here, after: chosen[here] & chosen[after])

    def cut(self, beyond: Float[Tensor, "height width"], step: float) -> "Pieces":
        """The pieces parted where a number jumps by a step from a pixel to the next."""
        return self._parts(lambda here, after: (beyond[here] - beyond[after]).abs() < step)

    def _parts(self, together: Callable[[_Places, _Places], Tensor]) -> "Pieces":
        """What is left connected where only some neighbours of a piece are together."""
        numbers = torch.arange(self.label.numel()).reshape(self.label.shape)
        ends = []
        for (here, after), same in zip(map(_pairs, _AHEAD), self.goes_on, strict=True):
            link = same[here] & together(here, after)
            ends.append(torch.stack([numbers[here][link], numbers[after][link]]))
        parts, count = _labelled(torch.cat(ends, dim=1), self.label.numel())
        return replace(self, label=parts.reshape(self.label.shape), count=count)


def pieces(views: Views, view: int, depth: Float[Tensor, "height width"]) -> Pieces:
    """The pieces of smooth surface in a view with normals.

    Args:
        depth: About the z-depth of what each pixel shows, scene units: in perspective, slopes grow with it.
    """
    directions = rays(views.cameras[[view]])[1][0].movedim(-1, 0)
    towards = (views.normals[view] * directions).sum(0)
    slopes = _slopes(views, view, depth, towards)
    # In units of the difference that parts two pieces.
    values = torch.cat([views.rgb[view] / _COLOUR, views.normals[view] / _NORMAL])
    faced = towards < -_STEEP_COSINE * directions.norm(dim=0)
    usable = faced & (views.alpha[view] > COVERED)
    numbers = torch.arange(usable.numel()).reshape(usable.shape)
    ends, steps = [], []
    for (here, after), slope in zip(map(_pairs, _AHEAD), slopes, strict=True):
        alike = ((values[:, *here] - values[:, *after]).abs() < 1).all(0) & usable[here] & usable[after]
        ends.append(torch.stack([numbers[here][alike], numbers[after][alike]]))
        steps.append(((slope[here] + slope[after]) / 2)[alike])
    linked = torch.cat(ends, dim=1)
    label, count = _labelled(linked, usable.numel())
    depth = _integrated(linked, torch.cat(steps), usable.numel())
    return Pieces(label=label.reshape(usable.shape), depth=depth.reshape(usable.shape), slopes=slopes, count=count)


def _pairs(step: tuple[int, int]) -> tuple[_Places, _Places]:
    """Indices of all pixels that have a neighbour one step on, and of these neighbours."""
    down, across = step
    return (slice(None, -1 if down else None), slice(None, -1 if across else None)), (slice(down, None), slice(across, None))


def _slopes(
    views: Views, view: int, depth: Float[Tensor, "height width"], towards: Float[Tensor, "height width"]
) -> Float[Tensor, "2 height width"]:
    """Change of the z-depth from a pixel to the next row and to the next column, as the normals have it.

    Args:
        towards: Products of the normals and the pixels' rays: the next ray leaves this one's, so the surface counts as it faces
            the ray, not the camera.
    """
    camera = views.cameras
    across, down, _ = torch.einsum("ji,jhw->ihw", camera.world_from_camera[view, :3, :3], views.normals[view])
    reach = depth if camera.projection == "perspective" else 1.0
    return -torch.stack([down, across]) / towards.clamp(max=-0.1) * (reach / float(camera.focal_px[view]))


def _labelled(linked: Int[Tensor, "2 links"], size: int) -> tuple[Int[Tensor, "pixels"], int]:
    """The connected component of each pixel that has a link, -1 for the others, and how many there are."""
    first, second = linked.numpy()
    graph = coo_matrix((np.ones(len(first), dtype=np.int8), (first, second)), shape=(size, size))
    component = connected_components(graph, directed=False)[1]
    used = np.unique(linked.numpy())
    label = np.full(size, -1, dtype=np.int64)
    names, label[used] = np.unique(component[used], return_inverse=True)
    return torch.from_numpy(label), len(names)


def _integrated(linked: Int[Tensor, "2 links"], steps: Float[Tensor, "links"], size: int) -> Float[Tensor, "pixels"]:
    """Depths whose differences along the links are nearest to the given ones, of mean 0 in each component."""
    used, ends = np.unique(linked.numpy(), return_inverse=True)
    ends = ends.reshape(2, -1)
    depth = np.zeros(size)
    if len(used):
        links = np.arange(ends.shape[1])
        signs = np.concatenate([-np.ones(len(links)), np.ones(len(links))])
        difference = csr_matrix((signs, (np.tile(links, 2), ends.reshape(-1))), shape=(len(links), len(used)))
        normal_equations = (difference.T @ difference + _TIE * identity(len(used))).tocsc()
        depth[used] = spsolve(normal_equations, difference.T @ steps.double().numpy())
    return torch.from_numpy(depth).float()
