"""Typed manifests: what each stage reads and writes.

A manifest is small JSON. It names its blobs by digest and carries, nested in `source`, the manifest it was made from, so the
last one holds the whole lineage. Tensors are safetensors blobs; each manifest documents the names, axes and dtypes in them.
"""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Matrix4 = tuple[
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
    tuple[float, float, float, float],
]


class Model(BaseModel):
    """Frozen, strict, closed: a typing error in a manifest or a parameter file is an error, never ignored."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class Blob(Model):
    """Immutable bytes in the store, at `blobs/sha256/<sha256>`."""

    sha256: Digest
    size_bytes: Annotated[int, Field(ge=0)]
    media_type: str


class WeightsRef(Model):
    """Weights enter a stage's parameters by digest, so that other weights make another key."""

    name: str
    sha256: Digest


class CameraSpec(Model):
    """One camera: OpenCV axes (+x right, +y down, +z forward), pixel (0, 0) centred at (0.5, 0.5).

    Orthographic: `u = focal_px * x + centre_px[0]` with `focal_px` in pixels per scene unit.
    Perspective: `u = focal_px * x / z + centre_px[0]` with `focal_px` in pixels.
    """

    name: str
    projection: Literal["orthographic", "perspective"]
    world_from_camera: Matrix4
    focal_px: Annotated[float, Field(gt=0)]
    centre_px: tuple[float, float]
    width_px: Annotated[int, Field(gt=0)]
    height_px: Annotated[int, Field(gt=0)]


class SourceImage(Model):
    """The bytes a person submitted, as they were."""

    kind: Literal["source-image/v1"] = "source-image/v1"
    name: str
    image: Blob


class PreparedImage(Model):
    """Output of `prepare`: a square RGBA PNG (straight alpha, sRGB), object centred, longest side 3/4 of the frame."""

    kind: Literal["prepared-image/v1"] = "prepared-image/v1"
    source: SourceImage
    image: Blob
    matting: Literal["alpha", "rembg", "opencv"]
    matting_confidence: Annotated[float, Field(ge=0, le=1)]


class MultiviewLatents(Model):
    """Output of `multiview`: safetensors "colour" and "normal", each float16 [view, channel, height, width], unscaled.

    A generator that starts from a first guess adds "coverage", float16 [view, height, width]: how likely each place is covered.
    front_elevation_deg: from how far above the object the picture seems to be taken; the cameras lean as the picture does.
    """

    kind: Literal["multiview-latents/v1"] = "multiview-latents/v1"
    source: PreparedImage
    latents: Blob
    cameras: tuple[CameraSpec, ...]
    front_elevation_deg: float = 0.0


class CoarseGeometry(Model):
    """Output of `coarse_neus`.

    views: plainly decoded views, safetensors as `codec.put_views` writes them.
    depth: safetensors "depth" float32 [view, height, width], z-depth in scene units, 0 where the ray meets nothing, and
        "confidence" float32 of the same shape in [0, 1].
    """

    kind: Literal["coarse-geometry/v1"] = "coarse-geometry/v1"
    source: MultiviewLatents
    views: Blob
    depth: Blob


class AlignedViews(Model):
    """Output of `decode`: pixel-aligned views, safetensors as `codec.put_views` writes them."""

    kind: Literal["aligned-views/v1"] = "aligned-views/v1"
    source: CoarseGeometry
    views: Blob


class Surface(Model):
    """Output of `refit_neus`: safetensors "sdf" float32 [z, y, x] on the corners of a grid over [-1, 1]^3, scene units."""

    kind: Literal["surface/v1"] = "surface/v1"
    source: AlignedViews
    field: Blob


class MeshAsset(Model):
    """Output of `export_mesh`: file name -> blob (`mesh.glb`, `mesh.obj`, `preview.png`, ...) and scores by name."""

    kind: Literal["mesh-asset/v1"] = "mesh-asset/v1"
    source: Surface
    files: dict[str, Blob]
    scores: dict[str, float]
