"""Repair and decimation: what leaves here is a sound mesh, or an error names its defect."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

from img2mesh.errors import NumericalError
from img2mesh.geometry.cameras import Cameras, rays
from img2mesh.mesh.reduce import in_single_precision, reduced, remeshed
from img2mesh.mesh.render import ray_scene, tensor
from img2mesh.mesh.topology import Ints, Mesh, compacted, component_volumes, defects, face_components, weld

# A part that covers this share of the picture's foreground alone is no speck, however little its volume.
SHOWN_SHARE = 0.0005
# A part of no more than this share of the faces floats when its box is this far from the main one's, in that one's diagonals.
FLOATING_SHARE = 0.02
FLOATING_GAP = 0.01


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
    """A sound mesh and the library that reduced it: "pymeshlab", "open3d", or "none" when nothing was to be done."""

    mesh: Mesh
    reduced_by: str


def clean(
    mesh: Mesh, *, faces: int, speck_share: float, picture: Silhouette | None = None, remesh: Literal["isotropic"] | None = None
) -> Cleaned:
    """The mesh without specks, hollows, degenerate faces and folds, of about `faces` triangles or fewer.

    Args:
        faces: Budget; exceeded only when nothing within it was found to be sound.
        speck_share: See `drop_specks`, as for `picture`.
        remesh: "isotropic" for triangles of even size and shape.

    Raises:
        InputError: What remeshing needs is not installed.
        NumericalError: The mesh is not closed, no 2-manifold or not wound outward.
    """
    whole = in_single_precision(drop_specks(weld(mesh), speck_share, picture))
    found = defects(whole)
    if found:
        raise NumericalError(f"the mesh must be watertight and a 2-manifold, found {', '.join(found)}: try another seed")
    smaller, name = reduced(whole, faces) if remesh is None else remeshed(whole, faces)
    # What was just large enough may have lost more than the rest.
    return Cleaned(mesh=drop_floating(drop_specks(smaller, speck_share, picture)), reduced_by=name)


def levels(cleaned: Cleaned, budgets: Sequence[int]) -> dict[str, Mesh]:
    """The mesh and ever coarser ones by the stem of their files' names: "mesh", "mesh_lod1", "mesh_lod2", ...

    Args:
        budgets: Of triangles, descending; as for `clean`.
    """
    meshes = {"mesh": cleaned.mesh}
    for level, budget in enumerate(budgets, start=1):
        coarser, _ = reduced(list(meshes.values())[-1], budget)
        meshes[f"mesh_lod{level}"] = drop_floating(coarser)
    return meshes


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
        bundle = _foreground_rays(picture)
        hit = _components_on_rays(mesh, components, candidates, bundle)
        # Rays that first meet what stays are covered whatever goes.
        unsure = np.flatnonzero(np.isin(hit, np.flatnonzero(candidates & ~keep)))
        bare = unsure[_components_on_rays(mesh, components, keep, bundle[unsure]) < 0]
        pixels = np.bincount(hit[bare], minlength=len(volumes))
        keep |= candidates & (pixels >= SHOWN_SHARE * len(hit))
    return compacted(Mesh(vertices=mesh.vertices, faces=mesh.faces[keep[components]]))


def drop_floating(mesh: Mesh) -> Mesh:
    """The mesh without small components that lie apart from the one with most faces, box from box."""
    components = face_components(mesh)
    counts = np.bincount(components)
    corners = np.repeat(components, 3)
    low, high = np.full((len(counts), 3), np.inf), np.full((len(counts), 3), -np.inf)
    np.minimum.at(low, corners, mesh.vertices[mesh.faces.reshape(-1)])
    np.maximum.at(high, corners, mesh.vertices[mesh.faces.reshape(-1)])
    main = int(counts.argmax())
    gaps = np.linalg.norm(np.maximum(0.0, np.maximum(low - high[main], low[main] - high)), axis=1)
    apart = gaps >= FLOATING_GAP * np.linalg.norm(high[main] - low[main])
    floating = apart & (counts <= FLOATING_SHARE * len(mesh.faces))
    return compacted(Mesh(vertices=mesh.vertices, faces=mesh.faces[~floating[components]]))


def _foreground_rays(picture: Silhouette) -> npt.NDArray[np.float32]:
    """Origin and direction [ray, 6] of each foreground pixel's ray."""
    foreground = picture.alpha >= 128
    origins, directions = rays(picture.camera.resized(foreground.shape[1], foreground.shape[0]))
    return np.concatenate([origins[0].numpy()[foreground], directions[0].numpy()[foreground]], axis=-1).astype(np.float32)


def _components_on_rays(mesh: Mesh, components: Ints, chosen: npt.NDArray[np.bool_], bundle: npt.NDArray[np.float32]) -> Ints:
    """For each ray the first of the chosen components that it meets, or -1."""
    chosen_faces = chosen[components]
    scene = ray_scene(mesh.vertices, mesh.faces[chosen_faces])
    hits = scene.cast_rays(tensor(bundle))["primitive_ids"].numpy()
    miss = hits == np.iinfo(hits.dtype).max
    return np.where(miss, -1, components[chosen_faces][np.where(miss, 0, hits)])
