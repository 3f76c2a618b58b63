"""How a surface becomes a mesh file; free of heavy imports."""

from pydantic import Field

from img2mesh.manifests import Model


class ExportConfig(Model):
    """Parameters of extraction, repair, texture and preview.

    Attributes:
        faces: Budget of triangles after decimation.
        texture_px: Side of the square texture.
        speck_share: Components with less than this share of the largest one's volume are dropped.
        mask_erosion_px: A view colours nothing nearer than this to its silhouette, in pixels of the view.
        angle_power: A view counts by the cosine of its angle to the surface, to this power.
        front_priority: How much more than any other view the input picture counts where it sees the surface.
        preview_px: Width of the preview sheet.
    """

    faces: int = Field(default=20_000, ge=100, le=2_000_000)
    texture_px: int = Field(default=1024, ge=64, le=8192)
    speck_share: float = Field(default=0.01, ge=0, lt=1)
    mask_erosion_px: float = Field(default=1.5, ge=0)
    angle_power: float = Field(default=4.0, gt=0)
    front_priority: float = Field(default=1000.0, ge=1)
    preview_px: int = Field(default=1600, ge=400, le=8000)
