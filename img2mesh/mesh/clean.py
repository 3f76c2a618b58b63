"""Repair and decimation: what leaves here is a sound mesh, or an error names its defect."""

import importlib.util
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import Cameras, rays
from img2mesh.mesh.render import ray_scene, tensor
from img2mesh.mesh.topology import Ints, Mesh, compacted, component_volumes, defects, face_components, weld

# A part that covers this share of the picture's foreground alone is no speck, however little its volume.
SHOWN_SHARE = 0.0005


@dataclass(frozen=True, kw_only=True)
class Silhouette:
    """What a picture covers.

    Attributes:
        camera: One view.
        alpha: [height, width], 0 to 255; foreground from 128 on.
    """

    camera: Cameras
    alpha: npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class Cleaned:
    """A sound mesh and the library that decimated it: "pymeshlab", "open3d", or "none" when nothing was to be done."""

    mesh: Mesh
    decimated_by: str


def clean(mesh: Mesh, *, faces: int, speck_share: float, picture: Silhouette | None = None) -> Cleaned:
    """The mesh without specks, hollows and degenerate faces, of about `faces` triangles or fewer.

    Args:
        faces: Budget; exceeded only when no decimation to it leaves a sound mesh.
        speck_share: See `drop_specks`, as for `picture`.

    Raises:
        NumericalError: The mesh is not closed, no 2-manifold or not wound outward, whatever is tried.
    """
    whole = drop_specks(weld(mesh), speck_share, picture)
    for candidate, name in _candidates(whole, faces):
        rounded = weld(_in_single_precision(candidate))
        if not defects(rounded):
            return Cleaned(mesh=rounded, decimated_by=name)
    found = ", ".join(defects(_in_single_precision(whole)))
    raise NumericalError(f"the mesh must be watertight and a 2-manifold, found {found}: try another seed")


def drop_specks(mesh: Mesh, share: float, picture: Silhouette | None = None) -> Mesh:
    """The mesh without specks and without the walls of inner hollows.

    Args:
        share: A speck has less than this share of the largest component's volume,
        picture: and covers no foreground of this picture that would be bare without it.
    """
    components = face_components(mesh)
    volumes = component_volumes(mesh, components)
    keep = (volumes > 0) & (volumes >= share * volumes.max())
    candidates = volumes > 0
    if picture and (candidates & ~keep).any():
        hit = _components_on_rays(mesh, components, candidates, picture)
        bare = _components_on_rays(mesh, components, keep, picture) < 0
        pixels = np.bincount(hit[bare & (hit >= 0)], minlength=len(volumes))
        keep |= candidates & (pixels >= SHOWN_SHARE * len(hit))
    return compacted(Mesh(vertices=mesh.vertices, faces=mesh.faces[keep[components]]))


def _components_on_rays(mesh: Mesh, components: Ints, chosen: npt.NDArray[np.bool_], picture: Silhouette) -> Ints:
    """For each foreground pixel the first of the chosen components that its ray meets, or -1."""
    chosen_faces = chosen[components]
    scene = ray_scene(mesh.vertices, mesh.faces[chosen_faces])
    foreground = picture.alpha >= 128
    origins, directions = rays(picture.camera.resized(foreground.shape[1], foreground.shape[0]))
    bundle = np.concatenate([origins[0].numpy()[foreground], directions[0].numpy()[foreground]], axis=-1)
    hits = scene.cast_rays(tensor(bundle.astype(np.float32)))["primitive_ids"].numpy()
    miss = hits == np.iinfo(hits.dtype).max
    return np.where(miss, -1, components[chosen_faces][np.where(miss, 0, hits)])


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
        targetfacenum=faces, qualitythr=0.3, preservenormal=True, preservetopology=True
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
