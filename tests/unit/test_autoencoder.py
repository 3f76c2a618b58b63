"""Packing of pictures and normal maps."""

import pytest
import torch

from img2mesh import presets
from img2mesh.geometry.cameras import orbit
from img2mesh.models.autoencoder import (
    decode_views,
    load,
    over_white,
    pack_colour,
    pack_normals,
    resize_rgba,
    unpack_colour,
    unpack_normals,
    with_known,
)


def test_outlines_are_known_in_front_and_behind_and_otherwise_what_is_covered_with_some_certainty() -> None:
    preset, picture = presets.tiny(), torch.zeros(4, 128, 128)
    picture[:, 32:96, 48:96] = 1
    latents = {domain: torch.zeros(6, 8, 16, 16) for domain in ("colour", "normal")}
    latents["coverage"] = torch.linspace(0.2, 0.8, 6).reshape(6, 1, 1).expand(6, 32, 32).half()
    network = load(preset.autoencoder.name, preset.autoencoder.sha256)
    views = decode_views(latents, orbit(size_px=128), picture, network)
    assert views.outlines is not None
    assert torch.equal(views.outlines[0], picture[3])
    assert torch.equal(views.outlines[3], picture[3].flip(-1))
    assert [bool((views.outlines[view] >= 0.5).all()) for view in (1, 2, 4, 5)] == [False, False, True, True]
    del latents["coverage"]
    assert decode_views(latents, orbit(size_px=128), picture, network).outlines is None


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


def test_outlines_of_sides_are_mirrored_and_no_higher_than_the_front() -> None:
    generator = torch.Generator().manual_seed(0)
    rgb, alpha = torch.rand(6, 3, 8, 8, generator=generator), torch.rand(6, 8, 8, generator=generator)
    front = torch.ones(4, 8, 8)
    front[3, 0] = 0
    for origin in ("encoded", "generated"):
        made, known = with_known(rgb, alpha, front, origin=origin)
        assert torch.equal(known[2], known[4].flip(-1))
        assert float(known[:, 0].max()) == 0
        assert torch.equal(made[:, :, 0], torch.ones(6, 3, 8))
    published, known = with_known(rgb, alpha, front, origin="published")
    assert torch.equal(known[[1, 2, 4, 5]], alpha[[1, 2, 4, 5]])
    assert torch.equal(published[[1, 2, 4, 5]], rgb[[1, 2, 4, 5]])
