"""Collections of meshes as objects to train on: GLB files, with colours, and none that pictures hardly show."""

import colorsys
import hashlib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from img2mesh.data.objects import TexturedObject, linear_from_srgb, list_objects, load_object
from img2mesh.errors import InputError

if TYPE_CHECKING:
    import trimesh
    from PIL.Image import Image

_SUFFIXES = (".glb", ".gltf")
# More faces than this show nothing more in pictures of 128 pixels.
_MOST_FACES, _FEWEST_FACES = 60_000, 12
# An object thinner than this share of its length is a sheet or a rod from most sides.
_THIN = 0.04
# From four sides, of the picture: how much it covers in each and on average; and the share of that in one piece.
_AZIMUTHS_DEG, _SIDE_PX = (0.0, 45.0, 90.0, 135.0), 64
_COVERS_LEAST, _COVERS, _ONE_PIECE = 0.03, 0.06, 0.8
# Objects without colours: so many of them wear textures, of other objects, as often repeated as this along the object.
_TEXTURED, _REPEATS, _TEXTURE_PX, _TEXTURES_OF = 0.45, 3.0, 128, 160
# More pieces than this are painted as one.
_MOST_PIECES = 24
_WOOD = np.array([0.55, 0.35, 0.2])


def gather(folder: Path, out: Path, *, textures: Path | None = None) -> Iterator[tuple[str, str]]:
    """Write every mesh below a folder that is fit to train on; gives each one's name and what is wrong with it, or nothing.

    Args:
        folder: With `.glb` and `.gltf` files, +y up.
        out: Folder of the GLB files.
        textures: Folder of objects whose training textures are worn by some of those that have no colours of their own.

    Raises:
        InputError: There is no such file.
    """
    files = sorted(path for path in folder.rglob("*") if path.suffix in _SUFFIXES)
    if not files:
        raise InputError(f"no {' or '.join(_SUFFIXES)} files in {folder}: give a folder of meshes")
    worn = _textures_of(textures) if textures else []
    out.mkdir(parents=True, exist_ok=True)
    for path in files:
        name = "__".join(path.relative_to(folder).with_suffix("").parts)
        try:
            data = _with_colours(path, name, worn)
            wrong = _unfit(load_object(data))
        except InputError:
            wrong = "not readable"
        if not wrong:
            (out / f"{name}.glb").write_bytes(data)
        yield name, wrong


def told(found: Iterator[tuple[str, str]]) -> str:
    """How many meshes were taken, and why others were not."""
    reasons = Counter(wrong for _, wrong in found)
    taken = reasons.pop("", 0)
    return ", ".join([f"{taken} objects", *(f"{count} {wrong}" for wrong, count in reasons.most_common())])


def _with_colours(path: Path, name: str, worn: list["Image"]) -> bytes:
    import trimesh

    try:
        scene: Any = trimesh.load_scene(path, process=False)
    except Exception as error:  # trimesh raises whatever its parsers meet: ValueError, KeyError, struct.error, ...
        raise InputError(f"{path} is not readable ({type(error).__name__}: {error})") from error
    if not any(_coloured(mesh) for mesh in scene.geometry.values()):
        scene = _painted(scene, np.random.default_rng(list(hashlib.sha256(name.encode()).digest()[:8])), worn)
    data: bytes = scene.export(file_type="glb")
    return data


def _coloured(mesh: Any) -> bool:
    """Whether a mesh has a texture, or a colour that is not white or grey."""
    visual = mesh.visual
    if visual.kind == "vertex":
        return bool(np.ptp(np.asarray(visual.vertex_colors)[:, :3], axis=1).any())
    material = getattr(visual, "material", None)
    colour = getattr(material, "baseColorFactor", None)
    return getattr(material, "baseColorTexture", None) is not None or (colour is not None and bool(np.ptp(colour[:3]) > 0))


def _painted(scene: "trimesh.Scene", random: np.random.Generator, worn: list["Image"]) -> "trimesh.Scene":
    """The scene in one to three colours or textures, every piece in one, pieces of one shape in the same."""
    import trimesh
    from trimesh import visual

    # Their types leave out what they are called with.
    textured: Any = visual.TextureVisuals
    coloured: Any = visual.material.PBRMaterial
    palette = [_colour(random) for _ in range(random.integers(1, 4))]
    pictures = [worn[random.integers(len(worn))] for _ in palette] if worn and random.random() < _TEXTURED else []
    painted, wears = trimesh.Scene(), dict[tuple[int, ...], int]()
    for piece in _pieces(scene):
        shape = (len(piece.faces), *np.sort(np.round(200 * piece.extents / scene.scale)).astype(int).tolist())
        chosen = wears.setdefault(shape, int(random.integers(len(palette))) if wears else 0)
        if pictures:
            piece.unmerge_vertices()
            material, uv = coloured(baseColorTexture=pictures[chosen]), _box_mapped(piece, _REPEATS / scene.scale)
        else:
            linear = np.round(255 * linear_from_srgb(255 * palette[chosen])).astype(np.uint8)
            material, uv = coloured(baseColorFactor=[*linear.tolist(), 255]), np.zeros((len(piece.vertices), 2))
        piece.visual = textured(uv=uv, material=material)
        painted.add_geometry(piece)
    return painted


def _colour(random: np.random.Generator) -> np.ndarray:
    """Something grey, of wood, or of anything, sRGB in [0, 1]."""
    kind = random.random()
    if kind < 0.3:
        colour = random.uniform(0.03, 0.95) * random.uniform(0.93, 1.0, 3)
    elif kind < 0.55:
        colour = _WOOD * random.uniform(0.3, 1.5) * random.uniform(0.85, 1.15, 3)
    else:
        colour = np.array(colorsys.hsv_to_rgb(random.random(), random.uniform(0.2, 0.95), random.uniform(0.2, 0.95)))
    return colour.clip(0, 1)


def _pieces(scene: "trimesh.Scene") -> Iterator[Any]:
    """Connected pieces of every mesh, in place."""
    import trimesh

    for node in scene.graph.nodes_geometry:
        transform, name = scene.graph[node]
        mesh: Any = scene.geometry[name].copy()
        if not isinstance(mesh, trimesh.Trimesh) or not len(mesh.faces):
            continue
        mesh.apply_transform(transform)
        mesh.merge_vertices(merge_tex=True, merge_norm=True)
        pieces = trimesh.graph.connected_components(mesh.face_adjacency, nodes=np.arange(len(mesh.faces)))
        if len(pieces) > _MOST_PIECES:
            pieces = [np.arange(len(mesh.faces))]
        for faces in pieces:
            yield mesh.submesh([faces], append=True, repair=False)


def _box_mapped(mesh: Any, scale: float) -> np.ndarray:
    """Texture coordinates of unmerged vertices, seen along the axis that their face looks at most."""
    axis = np.repeat(np.abs(mesh.face_normals).argmax(axis=1), 3)
    places = np.asarray(mesh.vertices) * scale
    across = np.array([[2, 1], [0, 2], [0, 1]])[axis]
    return np.take_along_axis(places, across, axis=1)


def _textures_of(objects: Path) -> list["Image"]:
    """Opaque textures that show something, of training objects."""
    from PIL import Image

    entries = [e for e in list_objects(objects, split="train") if e.row.get("textured", True)]
    chosen = np.random.default_rng(0).permutation(len(entries))[:_TEXTURES_OF]
    texels = [texels for number in chosen for texels in load_object(entries[number].read()).textures]
    shown = [t[..., :3] for t in texels if min(t.shape[:2]) >= _SIDE_PX and (t[..., 3] == 255).all() and t[..., :3].std() > 6]
    return [Image.fromarray(t).resize((_TEXTURE_PX, _TEXTURE_PX)) for t in shown]


def _unfit(obj: TexturedObject) -> str:
    """Why an object is no good to train on; nothing if it is."""
    from scipy.ndimage import label

    from img2mesh.data.render import place, render_views
    from img2mesh.geometry.cameras import orbit

    if not _FEWEST_FACES <= len(obj.faces) <= _MOST_FACES:
        return "too few or too many faces"
    extent = np.ptp(obj.vertices[np.unique(obj.faces)], axis=0)
    if extent.min() < _THIN * extent.max():
        return "too thin"
    covered = render_views(place(obj), orbit(_AZIMUTHS_DEG, size_px=_SIDE_PX), supersample=1).rgba[..., 3] > 127
    shares = covered.mean(axis=(1, 2))
    if shares.min() < _COVERS_LEAST or shares.mean() < _COVERS:
        return "too small in pictures"
    if min(np.bincount(label(view)[0].ravel())[1:].max() / view.sum() for view in covered) < _ONE_PIECE:
        return "in pieces"
    return ""
