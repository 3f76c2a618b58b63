"""Mesh files: GLB, OBJ with its material and texture, PLY and STL. The same mesh gives the same bytes."""

import io
import json
import struct
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from img2mesh.errors import InputError
from img2mesh.mesh.render import bilinear
from img2mesh.mesh.topology import Mesh, weld
from img2mesh.mesh.uv import TexturedMesh

Provenance = Mapping[str, str | bool]
_JSON_CHUNK = 0x4E4F534A


def write_files(textured: TexturedMesh, formats: Sequence[str], provenance: Provenance) -> dict[str, bytes]:
    """The files of the given formats by name, each with what it refers to.

    Args:
        formats: Of "glb", "obj", "ply" and "stl".
        provenance: Goes into the GLB's `asset.extras`.

    Raises:
        InputError: A format is unknown.
    """
    check_formats(formats)
    files: dict[str, bytes] = {}
    for name in dict.fromkeys(formats):
        files.update(_WRITERS[name](textured, provenance))
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


def _glb(textured: TexturedMesh, provenance: Provenance) -> dict[str, bytes]:
    """+Y up, the pictured side towards +Z: the world frame as it is."""
    import trimesh

    mesh = textured.mesh
    visuals: Any = trimesh.visual
    material = visuals.material.PBRMaterial(
        name="surface", baseColorTexture=Image.open(io.BytesIO(png(textured.texture))), metallicFactor=0.0, roughnessFactor=1.0
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
    return {"mesh.glb": _with_extras(data, provenance)}


def _with_extras(glb: bytes, provenance: Provenance) -> bytes:
    """The GLB with provenance in its JSON chunk, which comes first."""
    length, kind = struct.unpack_from("<II", glb, 12)
    if kind != _JSON_CHUNK:
        raise ValueError("the first chunk of a GLB file must be its JSON")
    document: dict[str, Any] = json.loads(glb[20 : 20 + length])
    document["asset"] = {**document["asset"], "generator": str(provenance.get("tool", "img2mesh")), "extras": dict(provenance)}
    text = json.dumps(document, separators=(",", ":"), sort_keys=True).encode()
    text += b" " * (-len(text) % 4)
    body = struct.pack("<II", len(text), kind) + text + glb[20 + length :]
    return glb[:8] + struct.pack("<I", 12 + len(body)) + body


def _obj(textured: TexturedMesh, provenance: Provenance) -> dict[str, bytes]:
    mesh = textured.mesh
    corners = (mesh.faces + 1).tolist()
    lines = [
        f"# {provenance.get('tool', 'img2mesh')}",
        "mtllib mesh.mtl",
        "o mesh",
        *(f"v {x:.9g} {y:.9g} {z:.9g}" for x, y, z in mesh.vertices.tolist()),
        *(f"vt {u:.7g} {1 - v:.7g}" for u, v in mesh.uv.tolist()),
        *(f"vn {x:.5g} {y:.5g} {z:.5g}" for x, y, z in mesh.normals.tolist()),
        "usemtl surface",
        *(f"f {a}/{a}/{a} {b}/{b}/{b} {c}/{c}/{c}" for a, b, c in corners),
    ]
    material = "newmtl surface\nKa 1 1 1\nKd 1 1 1\nKs 0 0 0\nd 1\nillum 1\nmap_Kd mesh_texture.png\n"
    return {
        "mesh.obj": ("\n".join(lines) + "\n").encode(),
        "mesh.mtl": material.encode(),
        "mesh_texture.png": png(textured.texture),
    }


def _ply(textured: TexturedMesh, provenance: Provenance) -> dict[str, bytes]:
    """Welded, with the texture's colour at each vertex."""
    import trimesh

    del provenance
    mesh, origin = _welded(textured)
    colours = bilinear(textured.texture, textured.mesh.uv[origin]).round().astype(np.uint8)
    opaque = np.full((len(colours), 1), 255, dtype=np.uint8)
    plain = trimesh.Trimesh(
        mesh.vertices, mesh.faces, vertex_colors=np.concatenate([colours, opaque], axis=1), process=False, validate=False
    )
    return {"mesh.ply": trimesh.exchange.ply.export_ply(plain)}


def _stl(textured: TexturedMesh, provenance: Provenance) -> dict[str, bytes]:
    import trimesh

    del provenance
    mesh, _ = _welded(textured)
    return {"mesh.stl": trimesh.exchange.stl.export_stl(trimesh.Trimesh(mesh.vertices, mesh.faces, process=False))}


def _welded(textured: TexturedMesh) -> tuple[Mesh, npt.NDArray[np.int64]]:
    """The mesh without cuts, and for each of its vertices one vertex of the unwrapped mesh at its place."""
    cut = textured.mesh
    mesh = weld(Mesh(vertices=cut.vertices, faces=cut.faces))
    origin = np.zeros(len(mesh.vertices), dtype=np.int64)
    origin[mesh.faces.reshape(-1)] = cut.faces.reshape(-1)
    return mesh, origin


_WRITERS: dict[str, Callable[[TexturedMesh, Provenance], dict[str, bytes]]] = {
    "glb": _glb,
    "obj": _obj,
    "ply": _ply,
    "stl": _stl,
}
FORMATS = tuple(_WRITERS)
