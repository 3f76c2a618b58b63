"""Repair and decimation: what leaves here is a sound mesh, or an error names its defect."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from img2mesh.errors import NumericalError
from img2mesh.mesh.topology import Mesh, compacted, component_volumes, defects, face_components, weld


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A sound mesh and the library that decimated it: "pymeshlab", "open3d", or "none" when nothing was to be done."""

    mesh: Mesh
    decimated_by: str


def clean(mesh: Mesh, *, faces: int, speck_share: float) -> Cleaned:
    """The mesh without specks, hollows and degenerate faces, of about `faces` triangles or fewer.

    Args:
        faces: Budget; exceeded only when no decimation to it leaves a sound mesh.
        speck_share: Components with less than this share of the largest one's volume are dropped, and so are inner walls.

    Raises:
        NumericalError: The mesh is not closed, no 2-manifold or not wound outward, whatever is tried.
    """
    whole = drop_specks(weld(mesh), speck_share)
    for candidate, name in _candidates(whole, faces):
        rounded = weld(_in_single_precision(candidate))
        if not defects(rounded):
            return Cleaned(mesh=rounded, decimated_by=name)
    found = ", ".join(defects(_in_single_precision(whole)))
    raise NumericalError(f"the mesh must be watertight and a 2-manifold, found {found}: try another seed")


def drop_specks(mesh: Mesh, share: float) -> Mesh:
    """The mesh without components of less than a share of the largest volume, and without the walls of inner hollows."""
    components = face_components(mesh)
    volumes = component_volumes(mesh, components)
    keep = (volumes > 0) & (volumes >= share * volumes.max())
    return compacted(Mesh(vertices=mesh.vertices, faces=mesh.faces[keep[components]]))


def _candidates(mesh: Mesh, faces: int) -> Iterator[tuple[Mesh, str]]:
    """Ever more careful reductions, the last of which is none."""
    if len(mesh.faces) > faces:
        if importlib.util.find_spec("pymeshlab"):
            yield _decimate_with_pymeshlab(mesh, faces), "pymeshlab"
        for budget in (faces, 2 * faces, 4 * faces):
            if budget < len(mesh.faces):
                yield _decimate_with_open3d(mesh, budget), "open3d"
    yield mesh, "none"


def _decimate_with_pymeshlab(mesh: Mesh, faces: int) -> Mesh:
    """Quadric edge collapse that keeps the topology. GPL-3.0 code is loaded here and nowhere else."""
    import pymeshlab

    meshes = pymeshlab.MeshSet()
    meshes.add_mesh(pymeshlab.Mesh(mesh.vertices, mesh.faces.astype(np.int32)))
    meshes.meshing_decimation_quadric_edge_collapse(
        targetfacenum=faces, qualitythr=0.5, preservenormal=True, preservetopology=True, planarquadric=True
    )
    result = meshes.current_mesh()
    return Mesh(vertices=result.vertex_matrix().astype(np.float64), faces=result.face_matrix().astype(np.int64))


def _decimate_with_open3d(mesh: Mesh, faces: int) -> Mesh:
    import open3d

    legacy = open3d.geometry.TriangleMesh(
        open3d.utility.Vector3dVector(mesh.vertices), open3d.utility.Vector3iVector(mesh.faces.astype(np.int32))
    )
    result = legacy.simplify_quadric_decimation(faces)
    return Mesh(vertices=np.asarray(result.vertices).copy(), faces=np.asarray(result.triangles).astype(np.int64))


def _in_single_precision(mesh: Mesh) -> Mesh:
    """The mesh as files will hold it, so that what is checked here is what is read there."""
    return Mesh(vertices=mesh.vertices.astype(np.float32).astype(np.float64), faces=mesh.faces)
