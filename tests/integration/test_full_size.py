"""The published layout at full size, with random tensors: pulled, loaded, and each network run once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.models import pull
from flows.reconstruct import stages_of
from img2mesh import codec, presets
from img2mesh.diffusion.conditioning import published_labels
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.manifests import SourceImage
from img2mesh.models import autoencoder, decoder, multiview
from img2mesh.storage import open_store
from tests.command import picture
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


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("small", [True, False], ids=["small", "full"])
def test_a_picture_becomes_a_mesh(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six stages on 256 px views from networks in the published layout; random weights leave the picture's own outline."""
    monkeypatch.setenv("IMG2MESH_WEIGHTS", str(tmp_path / "weights"))
    write_checkpoint(tmp_path / "checkpoint", small=small)
    pull("wonder3d", source=str(tmp_path / "checkpoint"), target=None, accepted=True, say=print)
    shutil.rmtree(tmp_path / "checkpoint")
    preset = presets.get("wonder3d")
    quick = {
        "sampling": preset.sampling.model_copy(update={"steps": 1}),
        "coarse_neus": preset.coarse_neus.model_copy(update={"max_steps": (20,) * len(preset.coarse_neus.max_steps)}),
        "refit_neus": preset.refit_neus.model_copy(update={"max_steps": (20,) * len(preset.refit_neus.max_steps)}),
        "export_mesh": preset.export_mesh.model_copy(update={"faces": 2000, "texture_px": 256}),
    }
    store = open_store(str(tmp_path / "store"))
    manifest: Any = SourceImage(name="disc", image=store.put_blob(picture(tmp_path / "disc.png").read_bytes(), "image/png"))
    for stage, params in stages_of(preset.model_copy(update=quick), seed=0, formats=("glb",)):
        manifest = stage(manifest, params, store)
        for loaded in (multiview.load, autoencoder.load, decoder.load):
            loaded.cache_clear()
    assert manifest.scores["watertight"] == 1.0
    assert manifest.scores["front_iou"] > 0.9
    latents = manifest.source.source.source.source
    assert {(camera.projection, camera.width_px) for camera in latents.cameras} == {("orthographic", 256)}
    found = codec.get_tensors(store, latents.latents)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == dict.fromkeys(("colour", "normal"), (6, 4, 32, 32))
