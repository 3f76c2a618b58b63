"""From a signed distance grid to a closed mesh."""

from itertools import permutations
from typing import Any

import numpy as np
from jaxtyping import Float

from img2mesh.errors import NumericalError
from img2mesh.mesh.topology import Floats, Ints, Mesh, component_volumes, defects

# No corner of the grid is nearer to the surface than this, voxels: crossings then stay apart, so no face degenerates.
CLEARANCE_VOXELS = 0.02
# A cube's six tetrahedra about its main diagonal, each a walk from corner (0, 0, 0) to (1, 1, 1) along three axes.
_WALKS = tuple(permutations(range(3)))


def extract(sdf: Float[np.ndarray, "z y x"]) -> Mesh:
    """The closed zero level set of a grid over [-1, 1]^3, wound outward, in world units.

    Marching cubes; where its cases leave a surface that is no 2-manifold, marching tetrahedra, which always gives one.

    Args:
        sdf: Signed distances on the corners of the grid, positive outside, scene units; a solid that reaches the border
            of the grid is closed just outside it.

    Raises:
        NumericalError: A distance is not finite, or nothing is inside.
    """
    if not np.isfinite(sdf).all():
        raise NumericalError(f"signed distances must be finite, found {int((~np.isfinite(sdf)).sum())} that are not")
    if not (sdf < 0).any():
        raise NumericalError(f"the level set is empty: no distance of the {sdf.shape} grid is negative")
    voxel = 2 / (np.array(sdf.shape) - 1)
    padded = _padded(sdf.astype(np.float64), float(voxel.min()))
    mesh = _in_world(_march_cubes(padded), voxel)
    return _in_world(march_tetrahedra(padded), voxel) if defects(mesh, hollows=True) else mesh


def _padded(sdf: Floats, voxel: float) -> Floats:
    padded = np.pad(sdf, 1, constant_values=voxel)
    clearance = CLEARANCE_VOXELS * voxel
    close = np.abs(padded) < clearance
    padded[close] = np.where(padded[close] < 0, -clearance, clearance)
    return padded


def _in_world(mesh: Mesh, voxel: Floats) -> Mesh:
    """From indices (z, y, x) of the padded grid to world x, y, z, with the winding that makes volumes positive."""
    vertices = ((mesh.vertices - 1) * voxel - 1)[:, ::-1]
    world = Mesh(vertices=np.ascontiguousarray(vertices), faces=mesh.faces)
    volume = component_volumes(world, np.zeros(len(world.faces), dtype=np.int64)).sum()
    return world if volume > 0 else Mesh(vertices=world.vertices, faces=np.ascontiguousarray(world.faces[:, ::-1]))


def _march_cubes(grid: Floats) -> Mesh:
    from skimage import measure

    march: Any = measure.marching_cubes
    vertices, faces, _, _ = march(grid, 0.0, allow_degenerate=False)
    return Mesh(vertices=vertices.astype(np.float64), faces=faces.astype(np.int64))


def march_tetrahedra(grid: Floats) -> Mesh:
    """The zero level set in units of grid indices; a closed 2-manifold when no value is 0 and the border is of one sign.

    Each cube is six tetrahedra, in each of which the level set is one flat piece: no case is ambiguous.
    """
    tetrahedra = _crossed_tetrahedra(grid)
    inside = grid.reshape(-1)[tetrahedra] < 0
    # Corners that are inside come first, so that only their number matters.
    order = np.argsort(~inside, axis=1, kind="stable")
    sorted_corners = np.take_along_axis(tetrahedra, order, axis=1)
    pieces = []
    for count, crossed in _CROSSED.items():
        corners = sorted_corners[inside.sum(axis=1) == count]
        pieces += [corners[:, np.array(triangle)] for triangle in crossed]
    return _oriented(np.concatenate(pieces), grid)


# For each number of inner corners, triangles of three crossed edges, each edge (inner corner, outer corner).
_CROSSED = {
    1: (((0, 1), (0, 2), (0, 3)),),
    2: (((0, 2), (0, 3), (1, 3)), ((0, 2), (1, 3), (1, 2))),
    3: (((0, 3), (1, 3), (2, 3)),),
}


def _crossed_tetrahedra(grid: Floats) -> Ints:
    """Flat indices [tetrahedron, 4] of the corners of those tetrahedra that the level set crosses."""
    strides = np.array([grid.shape[1] * grid.shape[2], grid.shape[2], 1])
    cells = np.indices([side - 1 for side in grid.shape]).reshape(3, -1).T @ strides
    offsets = np.array([[0, *np.cumsum(strides[list(walk)])] for walk in _WALKS])
    flat = grid.reshape(-1) < 0
    corners = cells[:, None] + np.unique(offsets)[None]
    active = cells[flat[corners].any(axis=1) & ~flat[corners].all(axis=1)]
    tetrahedra = (active[:, None, None] + offsets[None]).reshape(-1, 4)
    inner = flat[tetrahedra].sum(axis=1)
    return np.asarray(tetrahedra[(inner > 0) & (inner < 4)], dtype=np.int64)


def _oriented(edges: Ints, grid: Floats) -> Mesh:
    """Triangles of crossed edges [triangle, 3, 2] (inner corner first) as a mesh whose normals point outward."""
    values = grid.reshape(-1)
    # The same edge, seen from any tetrahedron, has the same inner corner.
    unique, faces = np.unique(edges.reshape(-1, 2) @ [values.size, 1], return_inverse=True)
    inner, outer = np.divmod(unique, values.size)
    share = values[inner] / (values[inner] - values[outer])
    start, end = (np.stack(np.unravel_index(corner, grid.shape), axis=1).astype(np.float64) for corner in (inner, outer))
    mesh = Mesh(vertices=start + share[:, None] * (end - start), faces=faces.reshape(-1, 3).astype(np.int64))
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    # From an inner corner of the tetrahedron to an outer one is outward across its flat piece.
    outward = (end - start)[mesh.faces[:, 0]]
    wrong = np.einsum("ij,ij->i", np.cross(b - a, c - a), outward) < 0
    return Mesh(vertices=mesh.vertices, faces=np.where(wrong[:, None], mesh.faces[:, ::-1], mesh.faces))
