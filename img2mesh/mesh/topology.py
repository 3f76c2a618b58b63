"""Triangle meshes as two arrays, and what makes one sound: closed, 2-manifold, wound outward, without degenerate faces."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

Floats = npt.NDArray[np.float64]
Ints = npt.NDArray[np.int64]

# Positions nearer than this are one vertex, scene units; far below a voxel, far above the rounding of 32 bits.
WELD_DISTANCE = 1e-6
# Faces smaller than this are no faces, square scene units.
SMALLEST_AREA = 1e-12


@dataclass(frozen=True, kw_only=True)
class Mesh:
    """Triangles in the world frame, counter-clockwise when seen from outside.

    Attributes:
        vertices: float64 [vertex, 3], x y z, scene units.
        faces: int64 [face, 3].
    """

    vertices: Floats
    faces: Ints


def weld(mesh: Mesh, distance: float = WELD_DISTANCE) -> Mesh:
    """The mesh with vertices of one position made one, and unused vertices dropped; faces stay, even collapsed ones."""
    first, place = coincident(mesh.vertices, distance)
    return compacted(Mesh(vertices=mesh.vertices[first], faces=place[mesh.faces]))


def coincident(vertices: Floats, distance: float = WELD_DISTANCE) -> tuple[Ints, Ints]:
    """The first vertex of each position, positions ascending by x, then y, then z; and the position of each vertex."""
    cells = np.round(vertices / distance).astype(np.int64)
    # Several times faster than np.unique along an axis.
    order = np.lexsort(cells.T[::-1])
    fresh = np.ones(len(cells), dtype=np.bool_)
    fresh[1:] = (cells[order[1:]] != cells[order[:-1]]).any(axis=1)
    place = np.empty(len(cells), dtype=np.int64)
    place[order] = np.cumsum(fresh) - 1
    return order[fresh], place


def compacted(mesh: Mesh) -> Mesh:
    """The mesh without vertices that no face uses."""
    used = np.zeros(len(mesh.vertices), dtype=np.bool_)
    used[mesh.faces] = True
    return Mesh(vertices=mesh.vertices[used], faces=(np.cumsum(used) - 1)[mesh.faces])


def face_cross(mesh: Mesh) -> Floats:
    """Normals of the faces, of twice the faces' area in length."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.cross(b - a, c - a)


def vertex_normals(mesh: Mesh) -> Floats:
    """Outward unit normals of the vertices, weighted by the areas of their faces."""
    cross = face_cross(mesh)
    sums = np.stack(
        [np.bincount(mesh.faces.reshape(-1), np.repeat(cross[:, axis], 3), len(mesh.vertices)) for axis in range(3)], axis=1
    )
    lengths = np.linalg.norm(sums, axis=1, keepdims=True)
    fallback = np.broadcast_to(np.array([0.0, 0.0, 1.0]), sums.shape)
    return np.where(lengths > 1e-15, sums / np.maximum(lengths, 1e-15), fallback)


def face_components(mesh: Mesh) -> Ints:
    """The component of each face, numbered from 0; faces that share a vertex belong together."""
    count = len(mesh.vertices)
    rows = np.concatenate([mesh.faces[:, 0], mesh.faces[:, 1]])
    columns = np.concatenate([mesh.faces[:, 1], mesh.faces[:, 2]])
    graph = coo_array((np.ones(len(rows), dtype=np.int8), (rows, columns)), shape=(count, count))
    parts, labels = connected_components(graph, directed=False)
    found = labels[mesh.faces[:, 0]]
    # Vertices that no face uses are parts too, but no components.
    used = np.zeros(parts, dtype=np.bool_)
    used[found] = True
    return np.asarray((np.cumsum(used) - 1)[found])


def component_volumes(mesh: Mesh, components: Ints) -> Floats:
    """Signed volume inside each component, cubic scene units: negative when it is wound inward."""
    a, b, c = (mesh.vertices[mesh.faces[:, corner]] for corner in range(3))
    return np.bincount(components, np.einsum("ij,ij->i", a, np.cross(b, c)) / 6).astype(np.float64)


def euler_number(mesh: Mesh) -> int:
    """Vertices - edges + faces: 2 for a sphere, 0 for a torus."""
    return len(np.unique(mesh.faces)) - len(undirected_edges(mesh)) + len(mesh.faces)


def undirected_edges(mesh: Mesh) -> Ints:
    """Each edge [edge, 2] once, the lower vertex first, ascending."""
    # Sorting is many times faster than np.unique, which hashes.
    keys = np.sort(_edge_keys(mesh))
    return np.stack(np.divmod(keys[np.diff(keys, prepend=-1) > 0], len(mesh.vertices)), axis=1)


def defects(mesh: Mesh, *, hollows: bool = False) -> tuple[str, ...]:
    """What is wrong with the mesh after welding, in words with counts; empty when it is sound.

    Args:
        hollows: Whether walls of inner hollows, which wind inward, are allowed.
    """
    mesh = weld(mesh)
    if not len(mesh.faces):
        return ("no faces",)
    by_edge = np.argsort(_edge_keys(mesh))
    found = {"degenerate faces": int(degenerate_faces(mesh).sum()), **_edge_defects(mesh, by_edge)}
    if not any(found.values()):
        found["vertices where surfaces touch"] = _touching_vertices(mesh, by_edge)
        inward = (component_volumes(mesh, face_components(mesh)) <= 0).sum()
        found["components wound inward"] = 0 if hollows else int(inward)
    return tuple(f"{count} {name}" for name, count in found.items() if count)


def degenerate_faces(mesh: Mesh) -> npt.NDArray[np.bool_]:
    """Which faces have a vertex twice, or no area to speak of."""
    repeated = (mesh.faces == np.roll(mesh.faces, 1, axis=1)).any(axis=1)
    return np.asarray(repeated | (np.linalg.norm(face_cross(mesh), axis=1) < 2 * SMALLEST_AREA))


def inward_faces(mesh: Mesh) -> npt.NDArray[np.bool_]:
    """Which faces belong to a component that is wound inward."""
    components = face_components(mesh)
    return np.asarray((component_volumes(mesh, components) <= 0)[components])


def _directed_edges(mesh: Mesh) -> Ints:
    return np.concatenate([mesh.faces[:, [0, 1]], mesh.faces[:, [1, 2]], mesh.faces[:, [2, 0]]])


def _edge_keys(mesh: Mesh) -> Ints:
    """A number of the edge, ascending by its lower and then its higher vertex, for each directed edge."""
    start, end = _directed_edges(mesh).T
    return np.asarray(np.minimum(start, end) * len(mesh.vertices) + np.maximum(start, end))


def _edge_defects(mesh: Mesh, by_edge: Ints) -> dict[str, int]:
    """What is wrong with the edges, given the directed ones in an order in which those of one edge are neighbours."""
    edges, keys = _directed_edges(mesh)[by_edge], _edge_keys(mesh)[by_edge]
    first = np.flatnonzero(np.diff(keys, prepend=-1))
    count = np.diff(first, append=len(keys))
    ahead = np.add.reduceat(edges[:, 0] < edges[:, 1], first, dtype=np.int64)
    return {
        "open edges": int((count == 1).sum()),
        "edges of more than two faces": int((count > 2).sum()),
        "edges between faces of opposite winding": int(((count == 2) & (ahead != 1)).sum()),
    }


def _touching_vertices(mesh: Mesh, by_edge: Ints) -> int:
    """Vertices whose faces form more than one fan; the mesh is closed, consistently wound and without unused vertices."""
    count = len(mesh.faces)
    corner = np.arange(3 * count).reshape(3, count).T  # corner k of face f is f + k * count, as its edge k to the next corner
    following = np.roll(corner, -1, axis=1).T.reshape(-1)
    twin = np.empty(3 * count, dtype=np.int64)
    twin[by_edge] = by_edge.reshape(-1, 2)[:, ::-1].reshape(-1)
    # The start of an edge is the end of its twin, so these two corners sit at one vertex and in one fan.
    links = (np.ones(3 * count, dtype=np.int8), (np.arange(3 * count), following[twin]))
    graph = coo_array(links, shape=(3 * count, 3 * count))
    fans = connected_components(graph, directed=False)[0]
    return int(fans - len(mesh.vertices))
