"""Manifests survive being written and read, and are frozen, closed and finite."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from flows.inbox import safe_name
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
from img2mesh.stage import canonical_json, own_blobs

text = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
finite = st.floats(allow_nan=False, allow_infinity=False)
blobs = st.builds(
    Blob,
    sha256=st.text("0123456789abcdef", min_size=64, max_size=64),
    size_bytes=st.integers(min_value=0, max_value=2**53),
    media_type=text,
)
rows = st.tuples(finite, finite, finite, finite)
cameras = st.builds(
    CameraSpec,
    name=text,
    projection=st.sampled_from(["orthographic", "perspective"]),
    world_from_camera=st.tuples(rows, rows, rows, rows),
    focal_px=st.floats(min_value=1e-3, max_value=1e6),
    centre_px=st.tuples(finite, finite),
    width_px=st.integers(min_value=1, max_value=10_000),
    height_px=st.integers(min_value=1, max_value=10_000),
)
sources = st.builds(SourceImage, kind=st.just("source-image/v1"), name=text, image=blobs)
prepared = st.builds(
    PreparedImage,
    kind=st.just("prepared-image/v1"),
    source=sources,
    image=blobs,
    matting=st.sampled_from(["alpha", "rembg", "opencv"]),
    matting_confidence=st.floats(min_value=0, max_value=1),
)


@st.composite
def assets(draw: st.DrawFn) -> MeshAsset:
    latents = MultiviewLatents(source=draw(prepared), latents=draw(blobs), cameras=tuple(draw(st.lists(cameras, max_size=2))))
    coarse = CoarseGeometry(source=latents, views=draw(blobs), depth=draw(blobs))
    surface = Surface(source=AlignedViews(source=coarse, views=draw(blobs)), field=draw(blobs))
    files = draw(st.dictionaries(text, blobs, max_size=3))
    return MeshAsset(source=surface, files=files, scores=draw(st.dictionaries(text, finite, max_size=3)))


@settings(max_examples=40, deadline=None)
@given(assets())
def test_what_is_written_is_read_again(asset: MeshAsset) -> None:
    data = canonical_json(asset)
    assert MeshAsset.model_validate_json(data) == asset
    assert canonical_json(MeshAsset.model_validate_json(data)) == data


@settings(max_examples=20, deadline=None)
@given(assets())
def test_a_stage_s_own_blobs_are_those_outside_its_source(asset: MeshAsset) -> None:
    assert list(own_blobs(asset)) == list(asset.files.values())
    assert list(own_blobs(asset.source)) == [asset.source.field]


@settings(max_examples=20, deadline=None)
@given(assets())
def test_the_last_manifest_holds_the_whole_lineage(asset: MeshAsset) -> None:
    kinds, link = [], json.loads(canonical_json(asset))
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


@given(blobs, st.text(max_size=70).filter(lambda digest: not set(digest) <= set("0123456789abcdef") or len(digest) != 64))
def test_digests_are_64_hexadecimal_digits(blob: Blob, digest: str) -> None:
    with pytest.raises(ValidationError):
        Blob.model_validate({**blob.model_dump(), "sha256": digest})


@settings(max_examples=20, deadline=None)
@given(prepared, text.filter(lambda name: name not in PreparedImage.model_fields))
def test_manifests_are_closed(manifest: PreparedImage, name: str) -> None:
    with pytest.raises(ValidationError):
        PreparedImage.model_validate_json(json.dumps({**manifest.model_dump(mode="json"), name: 1}))


@pytest.mark.parametrize("bad", ["NaN", "Infinity", "-1", '"0.5"', "2", "true"])
def test_numbers_are_finite_in_range_and_no_text(bad: str) -> None:
    source = '{"name":"a","image":{"sha256":"' + "0" * 64 + '","size_bytes":1,"media_type":"image/png"}}'
    image = '{"sha256":"' + "0" * 64 + '","size_bytes":1,"media_type":"image/png"}'
    manifest = '{"source":%s,"image":%s,"matting":"alpha","matting_confidence":%s}'
    assert PreparedImage.model_validate_json(manifest % (source, image, "0.5")).matting_confidence == 0.5
    with pytest.raises(ValidationError):
        PreparedImage.model_validate_json(manifest % (source, image, bad))


def test_manifests_are_frozen() -> None:
    blob = Blob(sha256="0" * 64, size_bytes=1, media_type="x/y")
    with pytest.raises(ValidationError):
        blob.size_bytes = 2


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=200))
def test_every_name_becomes_one_harmless_folder_name(name: str) -> None:
    made = safe_name(name)
    assert made == safe_name(made)
    assert made
    assert not made.startswith((".", "-"))
    assert not set(made) & set('/\\\0\n:*?"<>|')
    assert len(made.encode()) <= 120
