"""Any manifest survives its JSON, and nothing else is taken for one."""

import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from img2mesh.manifests import (
    AlignedViews,
    Blob,
    CameraSpec,
    CoarseGeometry,
    MeshAsset,
    MultiviewLatents,
    PreparedImage,
    SourceImage,
    Surface,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-6, max_value=1e6)
blobs = st.builds(
    Blob,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    size_bytes=st.integers(0, 2**50),
    media_type=st.sampled_from(["image/png", "application/x-safetensors"]),
)
cameras = st.builds(
    CameraSpec,
    name=st.text(),
    projection=st.sampled_from(["orthographic", "perspective"]),
    world_from_camera=st.tuples(*[st.tuples(*[finite] * 4)] * 4),
    focal_px=positive,
    centre_px=st.tuples(finite, finite),
    width_px=st.integers(1, 10_000),
    height_px=st.integers(1, 10_000),
)
sources = st.builds(SourceImage, name=st.text(), image=blobs)
prepared = st.builds(
    PreparedImage,
    source=sources,
    image=blobs,
    matting=st.sampled_from(["alpha", "rembg", "opencv"]),
    matting_confidence=st.floats(0, 1),
)
latents = st.builds(MultiviewLatents, source=prepared, latents=blobs, cameras=st.lists(cameras, max_size=2).map(tuple))
coarse = st.builds(CoarseGeometry, source=latents, views=blobs, depth=blobs)
surfaces = st.builds(Surface, source=st.builds(AlignedViews, source=coarse, views=blobs), field=blobs)
assets = st.builds(
    MeshAsset,
    source=surfaces,
    files=st.dictionaries(st.text(), blobs, max_size=2),
    scores=st.dictionaries(st.text(), finite, max_size=2),
)


@given(assets)
def test_a_manifest_survives_its_json(asset: MeshAsset) -> None:
    assert MeshAsset.model_validate_json(asset.model_dump_json()) == asset


@given(assets)
def test_the_last_manifest_holds_the_whole_lineage(asset: MeshAsset) -> None:
    kinds = []
    link = json.loads(asset.model_dump_json())
    while link is not None:
        kinds.append(link["kind"])
        link = link.get("source")
    assert kinds == [
        "mesh-asset/v1",
        "surface/v1",
        "aligned-views/v1",
        "coarse-geometry/v1",
        "multiview-latents/v1",
        "prepared-image/v1",
        "source-image/v1",
    ]


@given(sources, st.text(min_size=1).filter(lambda name: name not in ("kind", "name", "image")))
def test_unknown_fields_are_refused(source: SourceImage, field: str) -> None:
    with pytest.raises(ValidationError):
        SourceImage.model_validate_json(json.dumps({**source.model_dump(mode="json"), field: 0}))


@given(cameras, st.sampled_from([math.nan, math.inf, -math.inf]))
def test_numbers_are_finite(camera: CameraSpec, number: float) -> None:
    with pytest.raises(ValidationError):
        CameraSpec.model_validate({**camera.model_dump(), "centre_px": (number, 0.0)})


@given(blobs, st.text(max_size=70).filter(lambda text: not set(text) <= set("0123456789abcdef") or len(text) != 64))
def test_digests_are_64_hexadecimal_digits(blob: Blob, digest: str) -> None:
    with pytest.raises(ValidationError):
        Blob.model_validate({**blob.model_dump(), "sha256": digest})


@given(sources)
def test_manifests_are_frozen(source: SourceImage) -> None:
    with pytest.raises(ValidationError):
        source.name = "another"  # type: ignore[misc]
