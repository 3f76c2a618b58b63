"""USDZ: the mesh as USD text with its texture, in an archive that is read in place."""

import io
import json
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt

from img2mesh.mesh.topology import Mesh, vertex_normals
from img2mesh.mesh.uv import TexturedMesh

# A file in the archive begins at a multiple of this, bytes, so that it can be mapped into memory.
_ALIGNMENT = 64
# The kind of extra field that holds nothing but room.
_ROOM = 0x1986
_LOCAL_HEADER_BYTES = 30
_TEXTURE = "textures/surface.png"

_LAYER = """#usda 1.0
(
    customLayerData = {{
{metadata}
    }}
    defaultPrim = "Asset"
    metersPerUnit = {metres}
    upAxis = "Y"
)

def Xform "Asset" (
    kind = "component"
)
{{
    def Mesh "mesh" (
        prepend apiSchemas = ["MaterialBindingAPI"]
    )
    {{
        uniform bool doubleSided = 0
        float3[] extent = {extent}
        int[] faceVertexCounts = [{counts}]
        int[] faceVertexIndices = [{corners}]
        rel material:binding = </Asset/surface>
        normal3f[] normals = {normals} (
            interpolation = "vertex"
        )
        point3f[] points = {points}
        texCoord2f[] primvars:st = {places} (
            interpolation = "faceVarying"
        )
        int[] primvars:st:indices = [{place_of_corner}]
        uniform token subdivisionScheme = "none"
    }}

    def Material "surface"
    {{
        token outputs:surface.connect = </Asset/surface/shader.outputs:surface>

        def Shader "shader"
        {{
            uniform token info:id = "UsdPreviewSurface"
            color3f inputs:diffuseColor.connect = </Asset/surface/texture.outputs:rgb>
            float inputs:metallic = 0
            float inputs:roughness = 1
            token outputs:surface
        }}

        def Shader "texture"
        {{
            uniform token info:id = "UsdUVTexture"
            asset inputs:file = @{texture}@
            token inputs:sourceColorSpace = "sRGB"
            float2 inputs:st.connect = </Asset/surface/place.outputs:result>
            token inputs:wrapS = "clamp"
            token inputs:wrapT = "clamp"
            float3 outputs:rgb
        }}

        def Shader "place"
        {{
            uniform token info:id = "UsdPrimvarReader_float2"
            string inputs:varname = "st"
            float2 outputs:result
        }}
    }}
}}
"""


def usdz(
    mesh: Mesh, cut: TexturedMesh, texture: bytes, description: Mapping[str, str | bool | float | list[float]], metres: float
) -> bytes:
    """The archive, byte for byte the same for the same mesh.

    Args:
        mesh: Without cuts; its faces are those of `cut`, in the same order.
        cut: Gives each corner its place on the texture.
        texture: PNG.
        description: Goes into the layer's `customLayerData`.
        metres: To a unit.
    """
    layer = _LAYER.format(
        metadata="\n".join(f"        {_typed(name, value)}" for name, value in sorted(description.items())),
        metres=f"{metres:g}",
        extent=_tuples(np.stack([mesh.vertices.min(axis=0), mesh.vertices.max(axis=0)])),
        counts=", ".join(["3"] * len(mesh.faces)),
        corners=_integers(mesh.faces),
        normals=_tuples(vertex_normals(mesh), digits=5),
        points=_tuples(mesh.vertices),
        places=_tuples(cut.mesh.uv * [1, -1] + [0, 1], digits=7),
        place_of_corner=_integers(cut.mesh.faces),
        texture=_TEXTURE,
    )
    return _archive([("mesh.usda", layer.encode()), (_TEXTURE, texture)])


def _typed(name: str, value: str | bool | float | list[float]) -> str:
    if isinstance(value, list):
        return f"double3 {name} = ({', '.join(f'{number:.9g}' for number in value)})"
    if isinstance(value, bool):
        return f"bool {name} = {int(value)}"
    return (
        f"double {name} = {value:.9g}"
        if isinstance(value, float)
        else f"string {name} = {json.dumps(value, ensure_ascii=False)}"
    )


def _tuples(values: npt.NDArray[np.float64], digits: int = 9) -> str:
    return "[" + ", ".join("(" + ", ".join(f"{number:.{digits}g}" for number in row) + ")" for row in values.tolist()) + "]"


def _integers(values: npt.NDArray[np.int64]) -> str:
    return ", ".join(map(str, values.reshape(-1).tolist()))


def _archive(files: Sequence[tuple[str, bytes]]) -> bytes:
    """Stored, not compressed, each aligned, the layer first."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_STORED) as archive:
        for name, data in files:
            entry = zipfile.ZipInfo(name)
            room = -(buffer.tell() + _LOCAL_HEADER_BYTES + len(name.encode()) + 4) % _ALIGNMENT
            entry.extra = _ROOM.to_bytes(2, "little") + room.to_bytes(2, "little") + bytes(room)
            archive.writestr(entry, data)
    return buffer.getvalue()
