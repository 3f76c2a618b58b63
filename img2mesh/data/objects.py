"""Textured objects as arrays: GLB files and the folders and archives that hold them."""

import io
import json
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from img2mesh.errors import InputError

if TYPE_CHECKING:
    import trimesh
    from PIL.Image import Image

INDEX_NAME = "index.jsonl"
# glTF's default cut-off for alphaMode MASK.
DEFAULT_ALPHA_CUTOFF = 0.5
_WHITE = (255, 255, 255, 255)

Floats = npt.NDArray[np.float32]
Ints = npt.NDArray[np.int32]
Texels = npt.NDArray[np.uint8]


@dataclass(frozen=True, kw_only=True)
class TexturedObject:
    """A triangle mesh with base colours, +y up, +z its front.

    Attributes:
        vertices: float32 [vertex, 3].
        faces: int32 [face, 3], vertex indices.
        uv: float32 [face, 3, 2] per corner, glTF's: the origin is the top left of the texture, values outside 0..1 repeat.
        material: int32 [face], indices into `textures`.
        textures: uint8 [height, width, 4] each, sRGB; a flat colour is one texel. Alpha is 0 (a hole) or 255.
    """

    vertices: Floats
    faces: Ints
    uv: Floats
    material: Ints
    textures: tuple[Texels, ...]

    def with_vertices(self, vertices: Floats) -> "TexturedObject":
        """The same faces and colours on moved vertices."""
        return replace(self, vertices=np.ascontiguousarray(vertices, dtype=np.float32))


@dataclass(frozen=True, kw_only=True)
class ObjectEntry:
    """Where one object lies and what is known about it.

    Attributes:
        path: The GLB file, the zip archive that holds it as `member`, or the OBJ or STL file of a scanned object.
        row: The line of `index.jsonl` (licence, author, title, ...), empty for a plain folder.
    """

    id: str
    split: str
    source: str
    path: Path
    member: str | None
    row: dict[str, Any]

    def read(self) -> bytes:
        """The bytes of the GLB file.

        Raises:
            InputError: The file, the archive or its member cannot be read.
        """
        try:
            if self.path.suffix in (".obj", ".stl"):
                return _scanned(self.path)
            if self.member is None:
                return self.path.read_bytes()
            with zipfile.ZipFile(self.path) as archive:
                return archive.read(self.member)
        except (OSError, KeyError, zipfile.BadZipFile) as error:
            where = f"{self.path}" if self.member is None else f"{self.path}:{self.member}"
            raise InputError(f"cannot read object {self.id} at {where}: {error}; check the folder of objects") from error


def list_objects(folder: Path, *, split: str | None = None, source: str | None = None) -> list[ObjectEntry]:
    """The objects of a folder: the lines of its `index.jsonl`, or every `*.glb` below it, which then all count as "train".

    Scanned objects count too: Google's, unpacked as they come (`<name>/meshes/model.obj`), and `*.stl` such as the YCB scans.

    Args:
        split: Keep only this split.
        source: Keep only sources whose name starts with this.

    Raises:
        InputError: The folder is missing, its index is broken, or nothing is left.
    """
    if not folder.is_dir():
        raise InputError(f"no folder of objects at {folder}: give a folder with {INDEX_NAME} or with .glb files")
    index = folder / INDEX_NAME
    entries = list(_index_entries(index)) if index.is_file() else list(_folder_entries(folder))
    kept = [e for e in entries if split in (None, e.split) and e.source.startswith(source or "")]
    if not kept:
        raise InputError(f"{folder} has {len(entries)} objects, none with split {split or 'any'} and source {source or 'any'}")
    return kept


def iter_objects(folder: Path, *, split: str | None = None, source: str | None = None) -> Iterator[tuple[ObjectEntry, bytes]]:
    """Entries of `list_objects` with the bytes of their GLB files, read one at a time."""
    for entry in list_objects(folder, split=split, source=source):
        yield entry, entry.read()


def _index_entries(index: Path) -> Iterator[ObjectEntry]:
    for number, line in enumerate(index.read_text(encoding="utf-8").splitlines(), start=1):
        try:
            row = json.loads(line)
            yield ObjectEntry(
                id=row["id"],
                split=row["split"],
                source=row["source"],
                path=index.parent / row["archive"],
                member=row["file"],
                row=row,
            )
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(f"{index} line {number}: expected id, split, source, archive and file, found {error!r}") from error


def _folder_entries(folder: Path) -> Iterator[ObjectEntry]:
    for path in sorted(folder.rglob("*.glb")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield ObjectEntry(id=name, split="train", source="folder", path=path, member=None, row={})
    for path in sorted(folder.rglob("meshes/model.obj")):
        name = path.parents[1].relative_to(folder).as_posix()
        yield ObjectEntry(id=name, split="train", source="gso", path=path, member=None, row={})
    for path in sorted(folder.rglob("*.stl")):
        name = path.relative_to(folder).with_suffix("").as_posix()
        yield ObjectEntry(id=name, split="train", source="stl", path=path, member=None, row={})


def _scanned(path: Path) -> bytes:
    """The GLB of a file with +z up, as scans have it, and of the texture that Google keeps in another folder."""
    import trimesh
    from PIL import Image

    # Its types leave out what export gives for one format.
    mesh: Any = trimesh.load_mesh(path, process=False, skip_materials=True)
    places = path.parent / "texture.png", path.parents[1] / "materials" / "textures" / "texture.png"
    texture = next((place for place in places if place.is_file()), None)
    uv = getattr(mesh.visual, "uv", None)
    if texture is not None and uv is not None:
        with Image.open(texture) as image:
            textured: Any = trimesh.visual.TextureVisuals
            mesh.visual = textured(uv=uv, image=image.convert("RGB"))
    mesh.apply_transform([[1, 0, 0, 0], [0, 0, 1, 0], [0, -1, 0, 0], [0, 0, 0, 1]])
    data: bytes = mesh.export(file_type="glb")
    return data


def load_object(glb: bytes | Path) -> TexturedObject:
    """The object in a GLB file: every primitive of the scene under its node transform.

    Args:
        glb: The file's bytes or its path.

    Raises:
        InputError: Not a GLB file, or nothing with a surface in it.
    """
    import trimesh

    data = glb if isinstance(glb, bytes) else glb.read_bytes()
    name = "object" if isinstance(glb, bytes) else str(glb)
    try:
        scene = trimesh.load_scene(io.BytesIO(data), file_type="glb", process=False)
    except Exception as error:  # trimesh raises whatever its parsers meet: ValueError, KeyError, struct.error, ...
        raise InputError(f"{name} is not a readable GLB file ({type(error).__name__}: {error}); export it again") from error
    parts = [_load_part(scene, node) for node in scene.graph.nodes_geometry if _is_mesh(scene, node)]
    if not parts:
        raise InputError(f"{name} holds no triangles; export it with its mesh")
    return _join(parts)


def _is_mesh(scene: "trimesh.Scene", node: str) -> bool:
    import trimesh

    geometry = scene.geometry[scene.graph[node][1]]
    return isinstance(geometry, trimesh.Trimesh) and len(geometry.faces) > 0


def _load_part(scene: "trimesh.Scene", node: str) -> TexturedObject:
    transform, geometry_name = scene.graph[node]
    mesh = scene.geometry[geometry_name]
    vertices = np.asarray(mesh.vertices) @ transform[:3, :3].T + transform[:3, 3]
    faces = np.asarray(mesh.faces, dtype=np.int32)
    texture, uv = _surface_colour(mesh)
    return TexturedObject(
        vertices=vertices.astype(np.float32),
        faces=faces[:, ::-1].copy() if np.linalg.det(transform[:3, :3]) < 0 else faces,
        uv=uv[:, ::-1].copy() if np.linalg.det(transform[:3, :3]) < 0 else uv,
        material=np.zeros(len(faces), dtype=np.int32),
        textures=(texture,),
    )


def _join(parts: list[TexturedObject]) -> TexturedObject:
    offsets = np.cumsum([0, *(len(p.vertices) for p in parts)])
    return TexturedObject(
        vertices=np.concatenate([p.vertices for p in parts]),
        faces=np.concatenate([p.faces + np.int32(o) for p, o in zip(parts, offsets, strict=False)]),
        uv=np.concatenate([p.uv for p in parts]),
        material=np.concatenate([np.full(len(p.faces), i, dtype=np.int32) for i, p in enumerate(parts)]),
        textures=tuple(p.textures[0] for p in parts),
    )


def _surface_colour(mesh: "trimesh.Trimesh") -> tuple[Texels, Floats]:
    """One texture and per-corner coordinates for a material, vertex colours, or nothing (glTF's default is white)."""
    from trimesh.visual import TextureVisuals

    visual, count = mesh.visual, len(mesh.faces)
    if isinstance(visual, TextureVisuals):
        material = visual.material
        image = getattr(material, "baseColorTexture", None)
        uv = np.zeros((count, 3, 2), dtype=np.float32)
        if visual.uv is not None and image is not None:
            uv = np.asarray(visual.uv, dtype=np.float32)[mesh.faces]
            # trimesh turns v upwards when it reads glTF.
            uv[..., 1] = 1.0 - uv[..., 1]
        return _base_colour(material, image if visual.uv is not None else None), uv
    if visual is not None and visual.defined:
        return _face_colours(np.asarray(visual.face_colors, dtype=np.uint8))
    return np.array(_WHITE, dtype=np.uint8).reshape(1, 1, 4), np.zeros((count, 3, 2), dtype=np.float32)


def _face_colours(colours: Texels) -> tuple[Texels, Floats]:
    """Linear colours, one a face, as a texture one texel high; each face looks at the centre of its texel."""
    texture = np.concatenate([srgb_from_linear(colours[:, :3] / 255.0), np.full((len(colours), 1), 255, np.uint8)], axis=1)
    u = (np.arange(len(colours)) + 0.5) / len(colours)
    uv = np.stack([u, np.full_like(u, 0.5)], axis=-1).astype(np.float32)
    return texture[None], np.repeat(uv[:, None], 3, axis=1)


def _base_colour(material: Any, image: "Image | None") -> Texels:
    """Texture times factor (a product of linear colours, as glTF says) in sRGB, with binary alpha."""
    given = getattr(material, "baseColorFactor", None)
    factor = np.array(_WHITE, dtype=np.float64) if given is None else np.asarray(given, dtype=np.float64)
    factor = (np.append(factor, 255.0)[:4] if len(factor) < 4 else factor) / 255.0
    texels: Texels = np.full((1, 1, 4), 255, np.uint8) if image is None else np.array(image.convert("RGBA"), np.uint8)
    if not np.allclose(factor[:3], 1.0):
        texels[..., :3] = srgb_from_linear(linear_from_srgb(texels[..., :3]) * factor[:3])
    mode = getattr(material, "alphaMode", None)
    # A flat blended colour is glass: opaque here, since a hole in its place would be a worse likeness.
    if mode == "MASK" or (mode == "BLEND" and image is not None):
        cutoff = getattr(material, "alphaCutoff", None)
        threshold = DEFAULT_ALPHA_CUTOFF if cutoff is None or mode == "BLEND" else float(cutoff)
        texels[..., 3] = np.where(texels[..., 3] / 255.0 * factor[3] >= threshold, 255, 0)
    else:
        texels[..., 3] = 255
    return texels


def linear_from_srgb(colour: Texels) -> npt.NDArray[np.float64]:
    """Linear light in [0, 1] of 8-bit sRGB.

    Source: IEC 61966-2-1.
    """
    c = colour / 255.0
    return np.where(c <= 0.04045, c / 12.92, ((c + 0.055) / 1.055) ** 2.4)


def srgb_from_linear(colour: npt.NDArray[np.floating[Any]]) -> Texels:
    """8-bit sRGB of linear light in [0, 1]; the inverse of `linear_from_srgb`.

    Source: IEC 61966-2-1.
    """
    c = np.clip(colour, 0.0, 1.0)
    encoded = np.where(c <= 0.0031308, c * 12.92, 1.055 * c ** (1 / 2.4) - 0.055)
    texels: Texels = np.round(encoded * 255.0).astype(np.uint8)
    return texels
