"""What goes into the store as tensors, pictures and cameras comes out again."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from img2mesh import codec
from img2mesh.errors import ArtifactError
from img2mesh.geometry.cameras import VIEW_NAMES, orbit
from img2mesh.geometry.views import Views
from img2mesh.storage import Store, open_store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return open_store(str(tmp_path))


def test_tensors_keep_their_names_types_and_values(store: Store) -> None:
    written = {"sdf": torch.linspace(-1, 1, 24).reshape(2, 3, 4), "index": torch.arange(5)}
    read = codec.get_tensors(store, codec.put_tensors(store, written))
    assert set(read) == {"sdf", "index"}
    assert all(read[name].dtype == tensor.dtype and read[name].equal(tensor) for name, tensor in written.items())


def test_a_view_of_a_tensor_is_stored_as_it_looks(store: Store) -> None:
    transposed = torch.arange(6.0).reshape(2, 3).T
    assert codec.get_tensors(store, codec.put_tensors(store, {"t": transposed}))["t"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_equal_tensors_are_one_blob(store: Store) -> None:
    tensors = {"b": torch.ones(2), "a": torch.zeros(3)}
    assert codec.put_tensors(store, tensors) == codec.put_tensors(store, dict(reversed(tensors.items())))


def test_bytes_that_are_no_tensors_are_an_artifact_error(store: Store) -> None:
    with pytest.raises(ArtifactError, match="not a readable safetensors file"):
        codec.get_tensors(store, store.put_blob(b"no tensors", codec.SAFETENSORS))


def test_views_are_srgb_in_steps_of_one_in_255(store: Store) -> None:
    cameras = orbit(size_px=2)
    rgb = torch.tensor([-0.2, 0.0, 0.5, 1.3]).reshape(1, 1, 2, 2).expand(6, 3, 2, 2)
    normals = torch.tensor([0.6, 0.0, 0.8]).reshape(1, 3, 1, 1).expand(6, 3, 2, 2)
    views = Views(cameras=cameras, rgb=rgb, alpha=rgb[:, 0], normals=normals)
    read = codec.get_views(store, codec.put_views(store, views), codec.specs_from_cameras(cameras))
    assert (read.rgb[0, 0] * 255).flatten().tolist() == pytest.approx([0, 0, 128, 255], abs=1e-4)
    assert (read.alpha[5] * 255).flatten().tolist() == pytest.approx([0, 0, 128, 255], abs=1e-4)
    assert read.normals[3, :, 1, 1].tolist() == pytest.approx([0.6, 0.0, 0.8], abs=1e-3)
    assert read.outlines is None
    outlined = replace(views, outlines=torch.full((6, 2, 2), 0.2))
    read = codec.get_views(store, codec.put_views(store, outlined), codec.specs_from_cameras(cameras))
    assert read.outlines is not None
    assert read.outlines.flatten().tolist() == pytest.approx([0.2] * 24, abs=1e-6)


def test_pictures_have_straight_alpha(store: Store) -> None:
    # Colour under a transparent pixel survives: nothing was multiplied with alpha.
    rgba = np.array([[[255, 128, 0, 0], [1, 2, 3, 255]]], np.uint8)
    blob = codec.put_rgba(store, rgba)
    assert codec.get_rgba(store, blob).tolist() == rgba.tolist()
    picture = codec.get_picture(store, blob)
    assert picture.shape == (4, 1, 2)
    assert (picture[:, 0, 0] * 255).tolist() == pytest.approx([255, 128, 0, 0])


def test_cameras_come_back_from_their_manifest() -> None:
    cameras = orbit(size_px=128, elevation_deg=20)
    specs = codec.specs_from_cameras(cameras)
    assert tuple(spec.name for spec in specs) == VIEW_NAMES
    assert (specs[0].focal_px, specs[0].centre_px) == (64.0, (64.0, 64.0))
    read = codec.cameras_from_specs(tuple(type(spec).model_validate_json(spec.model_dump_json()) for spec in specs))
    assert read.world_from_camera.equal(cameras.world_from_camera)
    assert (read.projection, read.width_px, read.height_px) == ("orthographic", 128, 128)


def test_cameras_of_one_manifest_share_their_size() -> None:
    small, large = codec.specs_from_cameras(orbit(size_px=8))[:1], codec.specs_from_cameras(orbit(size_px=16))[1:]
    with pytest.raises(ArtifactError, match="share projection and image size"):
        codec.cameras_from_specs(small + large)
