"""An atlas: where on the texture each face lies."""

from dataclasses import dataclass, replace

import numpy as np
import numpy.typing as npt
from jaxtyping import Float

from img2mesh.mesh.topology import Floats, Ints, Mesh, vertex_normals

# Texels that stay free between charts.
CHART_GAP_PX = 4


@dataclass(frozen=True, kw_only=True)
class UnwrappedMesh:
    """A mesh cut open along the borders of its charts: vertices there appear once for each chart.

    Attributes:
        vertices: float64 [vertex, 3], world.
        normals: float64 [vertex, 3], world, unit, smooth across cuts.
        uv: float64 [vertex, 2] in [0, 1], u to the right and v down the texture.
        faces: int64 [face, 3].
    """

    vertices: Floats
    normals: Floats
    uv: Floats
    faces: Ints


@dataclass(frozen=True, kw_only=True)
class TexturedMesh:
    """An unwrapped mesh and its texture, uint8 [height, width, 3], sRGB."""

    mesh: UnwrappedMesh
    texture: npt.NDArray[np.uint8]

    def turned(self, turn: Float[np.ndarray, "3 3"]) -> "TexturedMesh":
        """Rotated about the origin."""
        mesh = replace(self.mesh, vertices=self.mesh.vertices @ turn.T, normals=self.mesh.normals @ turn.T)
        return replace(self, mesh=mesh)


def unwrap(mesh: Mesh, texture_px: int) -> UnwrappedMesh:
    """The mesh with an atlas by xatlas; the same mesh gives the same atlas.

    Args:
        texture_px: Side of the texture that will be painted; sets the gap between charts.
    """
    import xatlas

    charts = xatlas.ChartOptions()
    # Straight borders and few charts are worth little under a baked texture; one pass is several times faster than the default.
    charts.max_iterations = 1
    packing = xatlas.PackOptions()
    packing.resolution = texture_px
    packing.padding = CHART_GAP_PX
    packing.bilinear = True
    packing.bruteForce = False
    atlas = xatlas.Atlas()
    normals = vertex_normals(mesh)
    atlas.add_mesh(mesh.vertices.astype(np.float32), mesh.faces.astype(np.uint32), normals.astype(np.float32))
    atlas.generate(charts, packing)
    origin, faces, uv = atlas[0]
    return UnwrappedMesh(
        vertices=mesh.vertices[origin], normals=normals[origin], uv=uv.astype(np.float64), faces=faces.astype(np.int64)
    )
