"""Packing of pictures and normal maps."""

import pytest
import torch

from img2mesh.models.autoencoder import (
    over_white,
    pack_colour,
    pack_normals,
    resize_rgba,
    unpack_colour,
    unpack_normals,
)


def test_packing_a_picture_and_back() -> None:
    rgb, alpha = torch.rand(2, 3, 4, 4), torch.rand(2, 4, 4)
    packed = pack_colour(rgb, alpha)
    assert packed.min() >= -1
    assert packed.max() <= 1
    assert all(torch.allclose(a, b, atol=1e-6) for a, b in zip(unpack_colour(packed), (rgb, alpha), strict=True))


def test_unpacked_normals_are_unit_inside_and_zero_outside() -> None:
    normals = torch.tensor([0.0, 0.3, 0.4]).reshape(1, 3, 1, 1).expand(1, 3, 1, 2)
    packed = pack_normals(normals, torch.tensor([[[1.0, 0.0]]]))
    assert unpack_normals(packed)[0, :, 0, 0].tolist() == pytest.approx([0.0, 0.6, 0.8])
    assert unpack_normals(packed)[0, :, 0, 1].tolist() == [0.0, 0.0, 0.0]


def test_shrinking_does_not_mix_in_the_colour_of_transparent_pixels() -> None:
    rgba = torch.zeros(4, 2, 2)
    rgba[0, 0] = 1.0  # red above, opaque; what is below is transparent green
    rgba[3, 0] = 1.0
    rgba[1, 1] = 1.0
    assert resize_rgba(rgba, 1).flatten().tolist() == pytest.approx([1.0, 0.0, 0.0, 0.5])
    assert over_white(resize_rgba(rgba, 1)).flatten().tolist() == pytest.approx([1.0, 0.5, 0.5, 0.5])
