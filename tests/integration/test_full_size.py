"""The published layout at full size, with random tensors: pulled, loaded, and each network run once."""

import shutil
from pathlib import Path

import pytest
import torch

from flows.models import pull
from img2mesh import presets
from img2mesh.diffusion.conditioning import published_labels
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.models import autoencoder, decoder, multiview
from tests.published_layout import write_checkpoint


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_a_checkpoint_of_the_published_size_is_pulled_and_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMG2MESH_WEIGHTS", str(tmp_path / "weights"))
    write_checkpoint(tmp_path / "checkpoint", small=False)
    pull("wonder3d", source=str(tmp_path / "checkpoint"), target=None, accepted=True, say=print)
    shutil.rmtree(tmp_path / "checkpoint")
    preset = presets.get("wonder3d")
    front = torch.cat([torch.rand(3, 256, 256), torch.ones(1, 256, 256)])

    generator = multiview.load(preset.generator.name, preset.generator.sha256)
    assert sum(parameter.numel() for parameter in generator.unet.parameters()) == 910_785_284
    with torch.no_grad():
        place = next(generator.parameters()).device
        embedding = generator.embed(front[None, :3].to(place)).expand(12, -1, -1)
        predicted = generator(
            torch.randn(12, 8, 32, 32).to(place), torch.tensor(500).to(place), embedding, published_labels().to(place)
        )
    assert predicted.shape == (12, 4, 32, 32)
    assert predicted.isfinite().all()
    multiview.load.cache_clear()
    del generator

    views, latents = plainly_decoded(preset, front)
    network = decoder.load(preset.decoder.name, preset.decoder.sha256)
    rgb, alpha = decoder.decode_views(network, latents, views, torch.full((6, 256, 256), 2.0))
    assert rgb.shape == (6, 3, 256, 256)
    assert rgb.isfinite().all()
    assert torch.equal(alpha, views.alpha)


def plainly_decoded(preset: presets.Preset, front: torch.Tensor) -> tuple[Views, torch.Tensor]:
    """Views of the picture's own latent, and that latent for all of them."""
    vae = autoencoder.load(preset.autoencoder.name, preset.autoencoder.sha256)
    known = autoencoder.encode_picture(vae, front)
    assert known.shape == (4, 32, 32)
    latents = known.expand(6, -1, -1, -1)
    found = autoencoder.decode_views(
        {"colour": latents, "normal": latents},
        orbit(size_px=256),
        front,
        name=preset.autoencoder.name,
        sha256=preset.autoencoder.sha256,
    )
    return found, latents
