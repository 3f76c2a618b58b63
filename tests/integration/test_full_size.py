"""The published layout, small and at full size, with random tensors: pulled, and a picture taken through all six stages."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from flows.models import pull
from flows.reconstruct import stages_of
from img2mesh import codec, presets
from img2mesh.geometry.views import Views
from img2mesh.manifests import SourceImage
from img2mesh.models import autoencoder, decoder, multiview
from img2mesh.storage import open_store
from tests.command import picture
from tests.published_layout import write_checkpoint


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("small", [True, False], ids=["small", "full"])
def test_a_picture_becomes_a_mesh(small: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """All six stages on 256 px views; random weights leave the picture's own outline."""
    monkeypatch.setenv("IMG2MESH_WEIGHTS", str(tmp_path / "weights"))
    write_checkpoint(tmp_path / "checkpoint", small=small)
    pull("wonder3d", source=str(tmp_path / "checkpoint"), target=None, accepted=True, say=print)
    shutil.rmtree(tmp_path / "checkpoint")
    preset = presets.get("wonder3d")
    # Guidance doubles what the large network takes, and is seen in the small one.
    sampling = {"steps": 1, "guidance_scale": preset.sampling.guidance_scale if small else 1.0}
    quick = {
        "sampling": preset.sampling.model_copy(update=sampling),
        "coarse_neus": preset.coarse_neus.model_copy(update={"max_steps": (20,) * len(preset.coarse_neus.max_steps)}),
        "refit_neus": preset.refit_neus.model_copy(update={"max_steps": (20,) * len(preset.refit_neus.max_steps)}),
        "export_mesh": preset.export_mesh.model_copy(update={"faces": 2000, "texture_px": 256}),
    }
    decoded, decode_views = [], decoder.decode_views

    def watched(network: Any, latents: Any, views: Views, *rest: Any) -> Any:
        decoded.append((views, *decode_views(network, latents, views, *rest)))
        return decoded[-1][1:]

    monkeypatch.setattr(decoder, "decode_views", watched)
    store = open_store(str(tmp_path / "store"))
    manifest: Any = SourceImage(name="disc", image=store.put_blob(picture(tmp_path / "disc.png").read_bytes(), "image/png"))
    for stage, params in stages_of(preset.model_copy(update=quick), seed=0, formats=("glb",)):
        manifest = stage(manifest, params, store)
        if stage.name == "multiview" and not small:
            unet = multiview.load(preset.generator.name, preset.generator.sha256).unet
            assert sum(parameter.numel() for parameter in unet.parameters()) == 910_785_284
        for loaded in (multiview.load, autoencoder.load, decoder.load):
            loaded.cache_clear()
    [(views, rgb, alpha)] = decoded
    assert rgb.shape == (6, 3, 256, 256)
    assert rgb.isfinite().all()
    assert torch.equal(alpha, views.alpha)
    assert manifest.scores["watertight"] == 1.0
    assert manifest.scores["front_iou"] > 0.9
    latents = manifest.source.source.source.source
    assert {(camera.projection, camera.width_px) for camera in latents.cameras} == {("orthographic", 256)}
    found = codec.get_tensors(store, latents.latents)
    assert {name: tuple(tensor.shape) for name, tensor in found.items()} == dict.fromkeys(("colour", "normal"), (6, 4, 32, 32))
    assert all(tensor.isfinite().all() for tensor in found.values())
