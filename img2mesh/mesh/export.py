"""Mesh files: GLB, USDZ, OBJ with its material and texture, PLY and STL. The same mesh gives the same bytes."""

import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from img2mesh.errors import InputError
from img2mesh.mesh.render import bilinear
from img2mesh.mesh.topology import Mesh, weld
from img2mesh.mesh.usd import usdz
from img2mesh.mesh.uv import TexturedMesh

Provenance = Mapping[str, str | bool]
Description = dict[str, str | bool | float | list[float]]
# A unit is written as a metre, as glTF has it; nothing here measures an object.
METRES_PER_UNIT = 1.0
# Formats whose readers take +Y for up.
UPRIGHT = ("glb", "usdz")
_JSON_CHUNK = 0x4E4F534A
# What the data of a glTF buffer view are for.
_VERTICES, _INDICES = 34962, 34963
_STL_HEADER_BYTES = 80


@dataclass(frozen=True, kw_only=True)
class _Asset:
    """What a writer writes.

    Attributes:
        stem: Of the files' names.
        description: Provenance, and where and how large the mesh is.
    """

    textured: TexturedMesh
    stem: str
    description: Description


def write_files(
    textured: TexturedMesh, formats: Sequence[str], provenance: Provenance, *, up: str = "+Y", stem: str = "mesh"
) -> dict[str, bytes]:
    """The files of the given formats by name, each with what it refers to.

    Args:
        formats: Of "glb", "usdz", "obj", "ply" and "stl".
        provenance: Goes, with the up axis, metres to a unit, centre and size of the mesh's box, into the GLB's `asset.extras`,
            the USD layer's `customLayerData` and the comments of OBJ and PLY.
        up: The axis of the mesh that points up; a GLB and our USD have +Y.
        stem: Of the files' names.

    Raises:
        InputError: A format is unknown.
    """
    check_formats(formats)
    low, high = textured.mesh.vertices.min(axis=0), textured.mesh.vertices.max(axis=0)
    description: Description = {
        **provenance,
        "upAxis": up,
        "metersPerUnit": METRES_PER_UNIT,
        "centre": ((low + high) / 2).round(6).tolist(),
        "size": (high - low).round(6).tolist(),
    }
    asset = _Asset(textured=textured, stem=stem, description=description)
    files: dict[str, bytes] = {}
    for name in dict.fromkeys(formats):
        files.update(_WRITERS[name](asset))
    return files


def check_formats(formats: Sequence[str]) -> None:
    """Return when every format can be written.

    Raises:
        InputError: One cannot, or there is none.
    """
    unknown = [name for name in formats if name not in FORMATS]
    if unknown or not formats:
        found = ", ".join(repr(name) for name in unknown) or "none"
        raise InputError(f"mesh formats must be of {', '.join(FORMATS)}, found {found}")


def png(image: npt.NDArray[np.uint8]) -> bytes:
    """The picture as PNG."""
    buffer = io.BytesIO()
    Image.fromarray(image).save(buffer, "PNG", compress_level=6)
    return buffer.getvalue()


def _glb(asset: _Asset) -> dict[str, bytes]:
    """+Y up, the pictured side towards +Z: the world frame as it is."""
    import trimesh

    textured, mesh = asset.textured, asset.textured.mesh
    visuals: Any = trimesh.visual
    material = visuals.material.PBRMaterial(
        name="surface", baseColorTexture=Image.fromarray(textured.texture), metallicFactor=0.0, roughnessFactor=1.0
    )
    # Texture coordinates of this library start at the bottom.
    visual = visuals.TextureVisuals(uv=mesh.uv * [1, -1] + [0, 1], material=material)
    scene = trimesh.Scene()
    scene.add_geometry(
        trimesh.Trimesh(mesh.vertices, mesh.faces, vertex_normals=mesh.normals, visual=visual, process=False, validate=False),
        node_name="mesh",
        geom_name="mesh",
    )
    write: Any = trimesh.exchange.gltf.export_glb
    data: bytes = write(scene, include_normals=True)
    return {f"{asset.stem}.glb": _described(data, asset.description)}


def _described(glb: bytes, description: Description) -> bytes:
    """The GLB that says in its JSON chunk, which comes first, what it is and what its buffers are for."""
    length, kind = struct.unpack_from("<II", glb, 12)
    if kind != _JSON_CHUNK:
        raise ValueError("the first chunk of a GLB file must be its JSON")
    document: dict[str, Any] = json.loads(glb[20 : 20 + length])
    document["asset"] = {**document["asset"], "generator": str(description.get("tool", "img2mesh")), "extras": description}
    for primitive in (primitive for mesh in document["meshes"] for primitive in mesh["primitives"]):
        for accessor in (primitive["indices"], *primitive["attributes"].values()):
            view = document["bufferViews"][document["accessors"][accessor]["bufferView"]]
            view["target"] = _INDICES if accessor == primitive["indices"] else _VERTICES
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), kind) + text + glb[20 + length :]
    return glb[:8] + struct.pack("<I", 12 + len(body)) + body


def _usdz(asset: _Asset) -> dict[str, bytes]:
    mesh, _ = _welded(asset.textured)
    data = usdz(mesh, asset.textured, png(asset.textured.texture), asset.description, METRES_PER_UNIT)
    return {f"{asset.stem}.usdz": data}


def _obj(asset: _Asset) -> dict[str, bytes]:
    mesh, stem = asset.textured.mesh, asset.stem
    corners = (mesh.faces + 1).tolist()
    lines = [
        *(f"# {line}" for line in _comments(asset.description)),
        f"mtllib {stem}.mtl",
        "o mesh",
        *(f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.vertices.tolist()),
        *(f"vt {u:.7g} {1 - v:.7g}" for u, v in mesh.uv.tolist()),
        *(f"vn {x:.5g} {y:.5g} {z:.5g}" for x, y, z in mesh.normals.tolist()),
        "usemtl surface",
        *(f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in corners),
    ]
    material = f"newmtl surface\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd {stem}_texture.png\n"
    return {
        f"{stem}.obj": ("\n".join(lines) + "\n").encode(),
        f"{stem}.mtl": material.encode(),
        f"{stem}_texture.png": png(asset.textured.texture),
    }


def _ply(asset: _Asset) -> dict[str, bytes]:
    """Welded, with the texture's colour at each vertex."""
    import trimesh

    textured = asset.textured
    mesh, origin = _welded(textured)
    colours = bilinear(textured.texture, textured.mesh.uv[origin]).round().astype(np.uint8)
    opaque = np.full((len(colours), 1), 255, dtype=np.uint8)
    plain = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=np.concatenate([colours, opaque], axis=1), process=False, validate=False
    )
    first, second, rest = trimesh.exchange.ply.export_ply(plain).split(b"\n", 2)
    comments = [f"comment {line}".encode() for line in _comments(asset.description)]
    return {f"{asset.stem}.ply": b"\n".join([first, second, *comments, rest])}


def _stl(asset: _Asset) -> dict[str, bytes]:
    import trimesh

    mesh, _ = _welded(asset.textured)
    data: bytes = trimesh.exchange.stl.export_stl(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))
    header = f"{asset.description.get('tool', 'img2mesh')}; up {asset.description['upAxis']}; a unit is {METRES_PER_UNIT:g} m"
    fitted = header.encode("ascii", "replace")[:_STL_HEADER_BYTES].ljust(_STL_HEADER_BYTES)
    return {f"{asset.stem}.stl": fitted + data[_STL_HEADER_BYTES:]}


def _comments(description: Description) -> list[str]:
    """Lines of ASCII, whatever the values are."""
    return [f"{name}: {json.dumps(value)}" for name, value in sorted(description.items())]


def _welded(textured: TexturedMesh) -> tuple[Mesh, npt.NDArray[np.int64]]:
    """The mesh without cuts, and for each of its vertices one vertex of the unwrapped mesh at its place."""
    cut = textured.mesh
    mesh = weld(Mesh(vertices=cut.vertices, faces=cut.faces))
    origin = np.zeros(len(mesh.vertices), dtype=np.int64)
    origin[mesh.faces.reshape(-1)] = cut.faces.reshape(-1)
    return mesh, origin


_WRITERS: dict[str, Callable[[_Asset], dict[str, bytes]]] = {
    "glb": _glb,
    "usdz": _usdz,
    "obj": _obj,
    "ply": _ply,
    "stl": _stl,
}
FORMATS = tuple(_WRITERS)
