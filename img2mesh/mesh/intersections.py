"""Where a mesh passes through itself."""

from typing import Any

import numpy as np
import numpy.typing as npt

from img2mesh.mesh.render import ray_scene, tensor
from img2mesh.mesh.topology import Floats, Ints, Mesh, undirected_edges

# Rays are cast in single precision: what is this near to an edge's ends is looked at again in double precision.
_MARGIN = 1e-3


def intersecting_faces(mesh: Mesh) -> npt.NDArray[np.bool_]:
    """Which faces are met by a face that they share no edge with, other than in a common vertex.

    Two triangles that are not in one plane meet exactly when an edge of one passes through the other, so every edge is
    followed through the mesh. Faces that lie upon one another in one plane have edges in it, and are met by the walls
    at their borders.

    Args:
        mesh: Welded; without degenerate faces.
    """
    edges = undirected_edges(mesh)
    start, along = mesh.vertices[edges[:, 0]], mesh.vertices[edges[:, 1]] - mesh.vertices[edges[:, 0]]
    # Lengths along a ray are those of the edge; both ends have room, so that rounding cannot hide what touches them.
    bundle = np.concatenate([start - _MARGIN * along, along], axis=1).astype(np.float32)
    hits: Any = ray_scene(mesh.vertices, mesh.faces).list_intersections(tensor(bundle))
    near = hits["t_hit"].numpy() <= 1 + 2 * _MARGIN
    edge, face = (hits[name].numpy()[near].astype(np.int64) for name in ("ray_ids", "primitive_ids"))
    apart = (mesh.faces[face][:, :, None] != edges[edge][:, None, :]).all(axis=(1, 2))
    edge, face = edge[apart], face[apart]
    pierced = _pierce(mesh.vertices, edges[edge], mesh.faces[face])
    marked = np.zeros(len(mesh.faces), dtype=np.bool_)
    marked[face[pierced]] = True
    guilty = np.zeros(len(edges), dtype=np.bool_)
    guilty[edge[pierced]] = True
    return marked | _on_edges(mesh, edges[guilty])


def _pierce(vertices: Floats, edges: Ints, faces: Ints) -> npt.NDArray[np.bool_]:
    """Whether each edge passes through its face, both with their borders."""
    p, q = (vertices[edges[:, end]] for end in range(2))
    a, b, c = (vertices[faces[:, corner]] for corner in range(3))
    sides = np.stack([_volume(p, q, *pair) for pair in ((a, b), (b, c), (c, a))])
    inside = ((sides >= 0).all(axis=0) | (sides <= 0).all(axis=0)) & sides.any(axis=0)
    crossing = _volume(a, b, c, p) * _volume(a, b, c, q) <= 0
    return np.asarray(inside & crossing)


def _volume(a: Floats, b: Floats, c: Floats, d: Floats) -> Floats:
    """Six times the signed volume of tetrahedra."""
    volume: Floats = np.einsum("ij,ij->i", np.cross(b - a, c - a), d - a)
    return volume


def _on_edges(mesh: Mesh, edges: Ints) -> npt.NDArray[np.bool_]:
    """Faces that have one of these edges, each given with the lower vertex first."""
    count = len(mesh.vertices)
    sides = np.sort(np.stack([mesh.faces, np.roll(mesh.faces, -1, axis=1)], axis=2), axis=2) @ [count, 1]
    return np.asarray(np.isin(sides, edges @ [count, 1]).any(axis=1))
