"""Published checkpoints: read in their own layout, refused when they are something else, and used by the stages."""

import io
import json
from pathlib import Path

import pytest
import torch
from PIL import Image, ImageDraw
from safetensors import safe_open

from flows.models import pull
from flows.reconstruct import lineage
from img2mesh import codec, presets
from img2mesh.errors import InputError, TransientError
from img2mesh.manifests import PreparedImage, SourceImage
from img2mesh.models import autoencoder, decoder, multiview
from img2mesh.models.checkpoint import digest
from img2mesh.models.home import origins
from img2mesh.models.published import rename
from img2mesh.storage import open_store
from stages import multiview as multiview_stage
from tests.published_layout import write_checkpoint


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    write_checkpoint(tmp_path / "checkpoint")
    return tmp_path / "checkpoint"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("IMG2MESH_WEIGHTS", str(tmp_path / "weights"))
    return tmp_path / "weights"


def pulled(checkpoint: Path) -> list[str]:
    said: list[str] = []
    pull("wonder3d", source=str(checkpoint), target=None, accepted=True, say=said.append)
    return said


def changed(checkpoint: Path, part: str, change: dict[str, torch.Tensor | None]) -> None:
    """Replace, add or (None) remove tensors of a part."""
    path = checkpoint / part / "diffusion_pytorch_model.bin"
    state = torch.load(path, weights_only=True) | change
    torch.save({name: tensor for name, tensor in state.items() if tensor is not None}, path)


def test_the_licences_come_before_anything_is_fetched(home: Path) -> None:
    said: list[str] = []
    with pytest.raises(InputError, match="run the command again with --accept-licence"):
        pull("wonder3d", source=None, target=None, accepted=False, say=said.append)
    assert "AGPL-3.0" in said[0]
    assert not home.exists()


def test_without_weights_the_preset_says_what_to_run(home: Path) -> None:
    with pytest.raises(InputError, match="run `img2mesh models pull wonder3d`"):
        presets.get("wonder3d")


def test_offline_the_hub_is_not_asked(home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(TransientError, match=r"HF_HUB_OFFLINE is set and flamehaze1115/wonder3d-v1\.0 is not in the cache"):
        pull("wonder3d", source=None, target=None, accepted=True, say=lambda text: None)


def test_a_pulled_checkpoint_is_what_the_preset_names(checkpoint: Path, home: Path) -> None:
    said = pulled(checkpoint)
    preset = presets.get("wonder3d")
    for reference in (preset.autoencoder, preset.decoder, preset.generator):
        path = home / f"{reference.name}.safetensors"
        assert digest(path) == reference.sha256
        assert any(reference.sha256 in line for line in said)
    published = torch.load(checkpoint / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    with safe_open(home / "wonder3d" / "multiview.safetensors", "pt") as file:
        assert all(torch.equal(file.get_tensor(f"unet.{rename(name)}"), tensor) for name, tensor in published.items())


def test_the_published_files_are_known_by_digest(
    checkpoint: Path, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if the hub's client had fetched them: each repository's commit is the name of its folder."""
    asked: dict[str, str | None] = {}

    def snapshot_download(repository: str, *, revision: str | None, **_: object) -> str:
        asked[repository] = revision
        folder = tmp_path / "hub" / repository.rpartition("/")[2] / "snapshots" / (revision or "newest")
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            folder.symlink_to(checkpoint / "svd" if "stable-video" in repository else checkpoint)
        return str(folder)

    monkeypatch.setattr("huggingface_hub.snapshot_download", snapshot_download)
    chosen = ["flamehaze1115/wonder3d-v1.0@0123abc"]
    pull("wonder3d", source=None, target=None, accepted=True, say=lambda _: None, revisions=chosen)
    assert asked["flamehaze1115/wonder3d-v1.0"] == "0123abc"
    assert len(asked["stabilityai/stable-video-diffusion-img2vid"] or "") == 40
    file = "flamehaze1115/wonder3d-v1.0@0123abc:unet/diffusion_pytorch_model.bin"
    original = digest(checkpoint / "unet" / "diffusion_pytorch_model.bin")
    assert origins("wonder3d/multiview")[file] == original
    params = multiview_stage.Params.of(presets.get("wonder3d"), seed=0)
    assert lineage(params)[f"wonder3d/multiview < {file}"] == original


def test_an_unknown_repository_is_refused(home: Path) -> None:
    with pytest.raises(InputError, match="expected REPOSITORY@COMMIT"):
        pull("wonder3d", source=None, target=None, accepted=True, say=lambda _: None, revisions=["someone/else@1"])


def test_the_networks_load_and_the_temporal_decoder_is_unguided(checkpoint: Path, home: Path) -> None:
    pulled(checkpoint)
    preset = presets.get("wonder3d")
    generator = multiview.load(preset.generator.name, preset.generator.sha256)
    assert generator.scheduler().config["steps_offset"] == 1
    assert generator.embed(torch.rand(1, 3, 256, 256)).shape == (1, 1, 16)
    network = decoder.load(preset.decoder.name, preset.decoder.sha256)
    assert not any(attention.to_out.weight.any() for attention in network.attentions.values())
    vae = autoencoder.load(preset.autoencoder.name, preset.autoencoder.sha256)
    published = torch.load(checkpoint / "vae" / "diffusion_pytorch_model.bin", weights_only=True)
    kept = published["decoder.mid_block.attentions.0.query.weight"].float()
    assert torch.equal(vae.decoder.mid_block.attentions[0].to_q.weight, kept)


def test_pictures_come_before_the_encoder_as_clip_wants_them(checkpoint: Path, home: Path) -> None:
    pulled(checkpoint)
    preset = presets.get("wonder3d")
    generator = multiview.load(preset.generator.name, preset.generator.sha256)
    seen = generator._as_the_encoder_sees(torch.full((1, 3, 256, 256), 0.48145466))
    assert seen.shape == (1, 3, 224, 224)
    assert seen[0, 0].abs().max() < 1e-5
    assert seen[0, 1].mean().item() == pytest.approx((0.48145466 - 0.4578275) / 0.26130258, abs=1e-5)


def test_the_multiview_stage_runs_on_it(checkpoint: Path, home: Path, tmp_path: Path) -> None:
    pulled(checkpoint)
    preset = presets.get("wonder3d")
    preset = preset.model_copy(update={"sampling": preset.sampling.model_copy(update={"steps": 2}), "view_size_px": 64})
    store = open_store(str(tmp_path / "store"))
    picture = Image.new("RGBA", (128, 128))
    ImageDraw.Draw(picture).ellipse((16, 16, 112, 112), fill=(200, 80, 40, 255))
    data = io.BytesIO()
    picture.save(data, "PNG")
    blob = store.put_blob(data.getvalue(), "image/png")
    prepared = PreparedImage(source=SourceImage(name="disc", image=blob), image=blob, matting="alpha", matting_confidence=1.0)
    params = multiview_stage.Params.of(preset, seed=0)
    latents = multiview_stage.STAGE(prepared, params, store)
    tensors = codec.get_tensors(store, latents.latents)
    assert {name: tuple(tensor.shape) for name, tensor in tensors.items()} == {"colour": (6, 4, 8, 8), "normal": (6, 4, 8, 8)}
    assert all(tensor.isfinite().all() for tensor in tensors.values())
    views = autoencoder.decode_views(
        tensors,
        codec.cameras_from_specs(latents.cameras),
        codec.get_picture(store, prepared.image),
        autoencoder.load(preset.autoencoder.name, preset.autoencoder.sha256),
    )
    aligned = decoder.load(preset.decoder.name, preset.decoder.sha256)
    rgb, alpha = decoder.decode_views(aligned, tensors["colour"].float(), views, torch.full((6, 64, 64), 2.0))
    assert rgb.shape == (6, 3, 64, 64)
    assert torch.equal(alpha, views.alpha)


def test_painted_normals_say_what_is_covered() -> None:
    normals = torch.zeros(1, 3, 1, 3)
    normals[0, :, 0, 0] = torch.tensor([0.0, 0.0, 0.9])
    normals[0, :, 0, 1] = 0.98
    normals[0, :, 0, 2] = torch.tensor([-0.6, 0.8, 0.1])
    rgb, alpha, unit = autoencoder.unpack_painted(torch.zeros(1, 3, 1, 3), normals)
    assert alpha[0, 0].tolist() == [1, 0, 1]
    assert rgb[0, :, 0].T.tolist() == [[0.5] * 3, [1.0] * 3, [0.5] * 3]
    assert unit[0, :, 0, 0].tolist() == [0, 0, 1]
    assert unit[0, :, 0, 1].tolist() == [0, 0, 0]


def test_the_older_checkpoint_is_refused(checkpoint: Path, home: Path) -> None:
    state = torch.load(checkpoint / "unet" / "diffusion_pytorch_model.bin", weights_only=True)
    changed(checkpoint, "unet", {name: None for name in state if "joint" in name})
    with pytest.raises(InputError, match="older checkpoint without joint attention"):
        pulled(checkpoint)
    assert not (home / "wonder3d" / "SHA256SUMS").exists()
    # Unless a person says that it is what they want.
    config = json.loads((checkpoint / "unet" / "config.json").read_text())
    (checkpoint / "unet" / "config.json").write_text(json.dumps({**config, "cd_attention_mid": False}))
    pulled(checkpoint)


def test_tensors_that_do_not_fit_are_listed(checkpoint: Path, home: Path) -> None:
    changed(checkpoint, "unet", {"conv_in.bias": None, "conv_out.bias": torch.zeros(9), "conv_between.bias": torch.zeros(1)})
    expected = "1 missing: conv_in.bias; 1 surplus: conv_between.bias; 1 of another shape: conv_out.bias [9] instead of [4]"
    with pytest.raises(InputError) as refused:
        pulled(checkpoint)
    assert expected in str(refused.value)


def test_a_pickle_of_something_else_is_refused(checkpoint: Path, home: Path) -> None:
    torch.save({"code": Path("x")}, checkpoint / "vae" / "diffusion_pytorch_model.bin")
    with pytest.raises(InputError, match="is no checkpoint of tensors"):
        pulled(checkpoint)


def test_a_part_that_is_missing_is_named(checkpoint: Path, home: Path) -> None:
    (checkpoint / "svd" / "vae" / "config.json").unlink()
    with pytest.raises(InputError, match=r"svd/vae/config\.json is missing"):
        pulled(checkpoint)
