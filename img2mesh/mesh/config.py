"""How a surface becomes a mesh file; free of heavy imports."""

from typing import Literal

from pydantic import Field

from img2mesh.geometry.light import Light
from img2mesh.manifests import Model


class ExportConfig(Model):
    """Parameters of extraction, repair, texture and preview.

    Attributes:
        resolution: Corners along each side of the grid of extraction, on which the picture's outline is cut exactly.
        faces: Budget of triangles.
        lods: Budgets of further, coarser meshes, each smaller than the one before.
        remesh: "isotropic" for triangles of even size and shape.
        texture_px: Side of the square texture.
        speck_share: Components with less than this share of the largest one's volume are dropped,
            unless the picture shows them.
        mask_erosion_px: A generated view fades out from this far inside its opaque part towards its border, in its own pixels.
        angle_power: A generated view counts by the cosine of its angle to the surface, to this power.
        front_cosines: From the first to the second cosine of its angle to the surface, the input picture takes over.
        compensate: Whether the generated views' colours are fitted to the picture's where both see the surface.
        light: Whose shade generated views have, to be taken out of their colours: an asset is lit where it is used.
        padding_px: Width of the colour that continues past the border of each chart.
        preview_px: Width of the preview sheet.
    """

    resolution: int = Field(default=192, ge=16, le=512)
    faces: int = Field(default=20_000, ge=100, le=2_000_000)
    lods: tuple[int, ...] = ()
    remesh: Literal["isotropic"] | None = None
    texture_px: int = Field(default=1024, ge=64, le=8192)
    speck_share: float = Field(default=0.005, ge=0, lt=1)
    mask_erosion_px: float = Field(default=4.0, ge=0)
    angle_power: float = Field(default=8.0, gt=0)
    front_cosines: tuple[float, float] = (0.1, 0.4)
    compensate: bool = True
    light: Light | None = None
    padding_px: int = Field(default=8, ge=1)
    preview_px: int = Field(default=1600, ge=400, le=8000)
