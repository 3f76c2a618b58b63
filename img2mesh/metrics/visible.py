"""What can be seen of a mesh from outside: surface points and a solid, both from depth maps.

Objects made for pictures are often open, or closed with walls inside. What counts of them is what a camera can reach.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from img2mesh.errors import InputError

if TYPE_CHECKING:
    import open3d

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

# Half the diagonal of a cube of side 1, and a little: a normalised mesh in any attitude is within.
REACH = 0.875
MAP_SIZE_PX = 128
GRID_SIDE = 64
# Points are thinned to one a cube of this side, so that they lie evenly however many maps saw a place.
POINT_SPACING = 0.01


@dataclass(frozen=True, kw_only=True)
class Triangles:
    """A bare triangle mesh.

    Attributes:
        vertices: float64 [vertex, 3].
        faces: int64 [face, 3].
    """

    vertices: Floats
    faces: npt.NDArray[np.int64]

    def moved(self, offset: Floats, scale: float) -> "Triangles":
        """The mesh with `offset` added to its vertices, then multiplied by `scale`."""
        return Triangles(vertices=(self.vertices + offset) * scale, faces=self.faces)


def normalisation(mesh: Triangles) -> tuple[Floats, float]:
    """Offset and scale, see `Triangles.moved`, that put the mesh's bounding box about the origin with its longest side 1.

    Raises:
        InputError: The mesh has no triangles or no extent.
    """
    if not len(mesh.faces):
        raise InputError("expected a mesh with triangles, found none")
    used = mesh.vertices[np.unique(mesh.faces)]
    low, high = used.min(axis=0), used.max(axis=0)
    side = float((high - low).max())
    if not np.isfinite(side) or side <= 0:
        raise InputError(f"expected a mesh with an extent, found a longest side of {side}")
    return -(low + high) / 2, 1 / side


@dataclass(frozen=True, kw_only=True)
class DepthMaps:
    """Parallel projections of one mesh that lies within `REACH` of the origin.

    Attributes:
        axes: Right, down and forward of each view, [view, 3, 3].
        depth: Distance of the first hit from the plane through `-REACH * forward`, [view, row, column]; inf for a miss.
    """

    axes: Floats
    depth: Floats


def sphere_directions() -> Floats:
    """The 42 directions of an icosahedron's corners and the middles of its edges, unit, [42, 3]."""
    import trimesh

    return np.asarray(trimesh.creation.icosphere(subdivisions=1).vertices, dtype=np.float64)


def depth_maps(mesh: Triangles, *, size_px: int = MAP_SIZE_PX) -> DepthMaps:
    """The mesh from 42 directions."""
    forward = -sphere_directions()
    # Any vector will do that is far from parallel to the direction.
    aside = np.where(np.abs(forward[:, 1:2]) < 0.9, [[0.0, 1.0, 0.0]], [[1.0, 0.0, 0.0]])
    right = np.cross(forward, aside)
    right /= np.linalg.norm(right, axis=1, keepdims=True)
    axes = np.stack([right, np.cross(forward, right), forward], axis=1)
    places = ((np.arange(size_px) + 0.5) / size_px * 2 - 1) * REACH
    down, across = np.meshgrid(places, places, indexing="ij")
    plane = np.stack([across, down, np.full_like(down, -REACH)], axis=-1).reshape(-1, 3)
    scene = caster(mesh)
    depth = [first_hits(scene, plane @ frame, np.broadcast_to(frame[2], plane.shape)) for frame in axes]
    return DepthMaps(axes=axes, depth=np.stack(depth).reshape(len(axes), size_px, size_px))


def caster(mesh: Triangles) -> "open3d.t.geometry.RaycastingScene":
    """The mesh ready for rays."""
    import open3d

    scene = open3d.t.geometry.RaycastingScene(nthreads=1)
    vertices, faces = (np.ascontiguousarray(a, t) for a, t in ((mesh.vertices, np.float32), (mesh.faces, np.uint32)))
    scene.add_triangles(open3d.core.Tensor.from_numpy(vertices), open3d.core.Tensor.from_numpy(faces))
    return scene


def first_hits(scene: "open3d.t.geometry.RaycastingScene", origins: Floats, directions: Floats) -> Floats:
    """How far along each ray the mesh is met, in units of the direction; inf for a miss."""
    import open3d

    rays = np.concatenate([origins, directions], axis=1).astype(np.float32)
    answer = scene.cast_rays(open3d.core.Tensor.from_numpy(np.ascontiguousarray(rays)), nthreads=1)
    return np.asarray(answer["t_hit"].numpy(), dtype=np.float64)


def visible_points(maps: DepthMaps) -> Floats:
    """Surface points [point, 3] that the maps see, thinned to `POINT_SPACING`."""
    return thinned(_hits(maps))


def _hits(maps: DepthMaps) -> Floats:
    size = maps.depth.shape[1]
    found = []
    for frame, depth in zip(maps.axes, maps.depth, strict=True):
        row, column = np.nonzero(np.isfinite(depth))
        across, down = (((index + 0.5) / size * 2 - 1) * REACH for index in (column, row))
        found.append(np.stack([across, down, depth[row, column] - REACH], axis=1) @ frame)
    return np.concatenate(found)


def thinned(points: Floats) -> Floats:
    """The mean of the points in each cube of side `POINT_SPACING`."""
    import open3d

    cloud = open3d.geometry.PointCloud(open3d.utility.Vector3dVector(points))
    return np.asarray(cloud.voxel_down_sample(POINT_SPACING).points, dtype=np.float64)


def carved(maps: DepthMaps, *, side: int = GRID_SIDE) -> Bools:
    """Which voxels [x, y, z] of the cube of side 1 about the origin are solid, as far as the maps can tell.

    A voxel is solid when no map sees past its centre, or when some map's hit lies in it: so a bare sheet is one voxel thick,
    and a box without its lid is hollow.
    """
    centres = grid_centres(side, half_extent=0.5)
    left = np.arange(len(centres))
    for frame, depth in zip(maps.axes, maps.depth, strict=True):
        local = centres[left] @ frame.T
        left = left[local[:, 2] + REACH >= _between_pixels(depth, local[:, 0], local[:, 1])]
    solid = np.zeros((side, side, side), dtype=np.bool_)
    solid.reshape(-1)[left] = True
    hit = np.clip(np.floor((_hits(maps) + 0.5) * side).astype(int), 0, side - 1)
    solid[tuple(hit.T)] = True
    return solid


def _between_pixels(depth: Floats, across: Floats, down: Floats) -> Floats:
    """Depth at positions in a view: bilinear where all four pixels around have one, elsewhere the nearest pixel's."""
    size = len(depth)
    x, y = (np.clip((place / REACH + 1) / 2 * size - 0.5, 0, size - 1) for place in (across, down))
    left, top = np.minimum(x.astype(int), size - 2), np.minimum(y.astype(int), size - 2)
    corners = np.stack([depth[top, left], depth[top, left + 1], depth[top + 1, left], depth[top + 1, left + 1]])
    u, v = x - left, y - top
    weights = np.stack([(1 - u) * (1 - v), u * (1 - v), (1 - u) * v, u * v])
    whole = np.isfinite(corners).all(axis=0)
    nearest = depth[np.round(y).astype(int), np.round(x).astype(int)]
    mixed = (np.where(whole, corners, 0.0) * weights).sum(axis=0)
    between: Floats = np.where(whole, mixed, nearest)
    return between


def grid_centres(side: int, *, half_extent: float) -> Floats:
    """Centres [voxel, 3] of the voxels of a cube about the origin, z fastest."""
    places = ((np.arange(side) + 0.5) / side * 2 - 1) * half_extent
    return np.stack(np.meshgrid(places, places, places, indexing="ij"), axis=-1).reshape(-1, 3)


def volume_iou(solid: Bools, truth: Bools) -> float:
    """Intersection over union of two solids on the same grid; 1 when both are empty."""
    union = int((solid | truth).sum())
    return int((solid & truth).sum()) / union if union else 1.0
