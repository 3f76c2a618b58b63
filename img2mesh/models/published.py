"""The published Wonder3D and Stable Video Diffusion checkpoints, read once and written as weights files of this project.

A folder as on the hub is expected, with the temporal autoencoder of Stable Video Diffusion below `svd`:

    unet/  vae/  image_encoder/  scheduler/  svd/vae/

each with its `config.json` and one file of tensors, safetensors or pickle. A pickle is read with `weights_only=True`: tensors
and plain containers, no code. What is written is `multiview.safetensors` (UNet and image encoder), `vae.safetensors` and
`decoder.safetensors` (the temporal decoder, whose depth-guided layers are not published), fp16, and their digests.
"""

import inspect
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder, DDIMScheduler
from safetensors.torch import load_file
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from img2mesh.errors import InputError
from img2mesh.models.autoencoder import from_config
from img2mesh.models.checkpoint import digest, save_weights
from img2mesh.models.home import LISTING
from img2mesh.models.multiview_unet import MultiviewUNet

FAMILY = "wonder3d"
TENSOR_FILES = (
    "diffusion_pytorch_model.safetensors",
    "diffusion_pytorch_model.fp16.safetensors",
    "diffusion_pytorch_model.bin",
    "model.safetensors",
    "pytorch_model.bin",
)
# How CLIP's pictures are prepared, from its published preprocessor.
PICTURE = {
    "size_px": 224,
    "mean": (0.48145466, 0.4578275, 0.40821073),
    "deviation": (0.26862954, 0.26130258, 0.27577711),
}
# The new layers of the depth-guided decoder at full size; the paper leaves the number of heads open.
GUIDANCE = {"num_views": 6, "samples": (7, 7, 7, 2), "radius": 0.1, "head_dim": 64}
# Names of older files, and what they became.
_RENAMED = (
    (r"\b(attn|norm)_joint_twice\.", r"\1_joint_mid."),
    (r"\b(attn|norm)_joint\.", r"\1_joint_last."),
    (r"(mid_block\.attentions\.0)\.query\.", r"\1.to_q."),
    (r"(mid_block\.attentions\.0)\.key\.", r"\1.to_k."),
    (r"(mid_block\.attentions\.0)\.value\.", r"\1.to_v."),
    (r"(mid_block\.attentions\.0)\.proj_attn\.", r"\1.to_out.0."),
)
# A buffer that older files of the image encoder hold and that is always the same.
_IGNORED = ("vision_model.embeddings.position_ids",)
_NAMED = 12


def convert(
    source: Path, target: Path, say: Callable[[str], None], revisions: Mapping[str, str] = MappingProxyType({})
) -> dict[str, str]:
    """Write the weights files of the checkpoint below `source` into `target`, the listing of digests last.

    Args:
        source: As the module's text says.
        target: Folder; what it holds is replaced.
        say: Is told what is being done.
        revisions: Repository and commit that a folder below `source` is from, `owner/name@commit`, where that is known.

    Returns:
        Digest of each file by its name.

    Raises:
        InputError: Something is missing, is not what it should be, or is the older checkpoint without joint attention.
    """
    target.mkdir(parents=True, exist_ok=True)
    (target / LISTING).unlink(missing_ok=True)
    digests = {}
    for name, build, folders in (
        ("vae", _autoencoder, ("vae",)),
        ("decoder", _decoder, ("svd/vae",)),
        ("multiview", _multiview, ("unet", "image_encoder")),
    ):
        say(f"converting {name}")
        partial = target / f".{name}.partial"
        save_weights(partial, *build(source), dict(_origin(source, folder, revisions) for folder in folders))
        digests[f"{name}.safetensors"] = digest(partial)
        partial.replace(target / f"{name}.safetensors")
    listing = target / f".{LISTING}.partial"
    listing.write_text("".join(f"{value}  {name}\n" for name, value in digests.items()), encoding="ascii")
    listing.replace(target / LISTING)
    return digests


def _origin(source: Path, folder: str, revisions: Mapping[str, str]) -> tuple[str, str]:
    """The published file of a folder, with its repository and commit where they are known, and its digest."""
    path = _tensor_file(source / folder)
    where = f"{revisions[folder]}:" if folder in revisions else ""
    return f"{where}{folder}/{path.name}", digest(path)


def _multiview(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    unet_config, encoder_config = _config(source / "unet"), _config(source / "image_encoder")
    with torch.device("meta"):
        unet = _built(source / "unet", lambda: MultiviewUNet.from_published_config(unet_config))
        encoder = _built(source / "image_encoder", lambda: _encoder(encoder_config))
    state = {f"unet.{name}": tensor for name, tensor in _fitting(source / "unet", unet).items()}
    state |= {f"image_encoder.{name}": tensor for name, tensor in _fitting(source / "image_encoder", encoder).items()}
    schedule = DDIMScheduler(**_known(_config(source / "scheduler", "scheduler_config.json"), DDIMScheduler))
    config = {
        "unet": unet_config,
        "image_encoder": _plain(encoder.config.to_dict()),
        "scheduler": _plain(dict(schedule.config)),
        "picture": {**PICTURE, "size_px": encoder.config.image_size},
        "labels": "published",
    }
    return state, config


def _encoder(config: dict[str, Any]) -> CLIPVisionModelWithProjection:
    # The configuration of a whole CLIP holds that of its half for pictures.
    return CLIPVisionModelWithProjection(CLIPVisionConfig(**config.get("vision_config", config)))


def _autoencoder(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    folder = source / "vae"
    with torch.device("meta"):
        network = _built(folder, lambda: from_config(_known(_config(folder), AutoencoderKL)))
    return _fitting(folder, network), _plain(dict(network.config))


def _decoder(source: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    folder = source / "svd" / "vae"
    config = _known(_config(folder), AutoencoderKLTemporalDecoder)
    with torch.device("meta"):
        network = _built(folder, lambda: AutoencoderKLTemporalDecoder(**config))
    state = {name: tensor for name, tensor in _fitting(folder, network).items() if name.startswith("decoder.")}
    shared = ("out_channels", "latent_channels", "block_out_channels", "layers_per_block")
    return state, {key: network.config[key] for key in shared} | {"norm_num_groups": 32} | GUIDANCE


def _known(config: dict[str, Any], kind: Any) -> dict[str, Any]:
    """The keys of a configuration that this version of diffusers knows, with tuples where JSON has lists."""
    known = inspect.signature(kind.__init__).parameters
    return {key: tuple(value) if isinstance(value, list) else value for key, value in config.items() if key in known}


def _plain(config: dict[str, Any]) -> dict[str, Any]:
    kept = {key: value for key, value in config.items() if not key.startswith("_")}
    return {key: value for key, value in kept.items() if key not in ("architectures", "dtype", "transformers_version")}


def _config(folder: Path, name: str = "config.json") -> dict[str, Any]:
    path = folder / name
    try:
        config: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise InputError(f"{path} is missing: give a folder with unet, vae, image_encoder, scheduler and svd/vae") from error
    except ValueError as error:
        raise InputError(f"{path} is no JSON: {error}; fetch the checkpoint again") from error
    return config


def _built(folder: Path, build: Callable[[], Any]) -> Any:
    try:
        return build()
    except (KeyError, TypeError, ValueError) as error:
        raise InputError(f"{folder / 'config.json'} describes a network that this version cannot build: {error!r}") from error


def _fitting(folder: Path, network: nn.Module) -> dict[str, Tensor]:
    """The folder's tensors under their present names, if they are those of the network.

    Raises:
        InputError: Tensors are missing, surplus or of another shape.
    """
    path, found = read_published(folder)
    expected = {name: tuple(tensor.shape) for name, tensor in network.state_dict().items()}
    state = {}
    for name, tensor in found.items():
        renamed = rename(name)
        fits = tensor.ndim == 4 and tuple(tensor.shape[:2]) == expected.get(renamed)
        state[renamed] = tensor[:, :, 0, 0] if fits else tensor
    if any("_joint_mid." in name for name in expected) and not any("_joint_" in name for name in state):
        raise InputError(
            f"{path} is the older checkpoint without joint attention, which makes colours and normals that do not match; "
            "fetch flamehaze1115/wonder3d-v1.0, or set cd_attention_mid to false in unet/config.json to use it all the same"
        )
    problems = list(_differences(expected, {name: tuple(tensor.shape) for name, tensor in state.items()}))
    if problems:
        raise InputError(f"{path} does not fit its configuration: {'; '.join(problems)}; fetch the checkpoint again")
    return {name: state[name] for name in expected}


def _differences(expected: dict[str, tuple[int, ...]], found: dict[str, tuple[int, ...]]) -> Iterator[str]:
    missing, surplus = sorted(expected.keys() - found.keys()), sorted(found.keys() - expected.keys())
    shaped = sorted(name for name in expected.keys() & found.keys() if expected[name] != found[name])
    wrong = [f"{name} {list(found[name])} instead of {list(expected[name])}" for name in shaped]
    for what, names in (("missing", missing), ("surplus", surplus), ("of another shape", wrong)):
        if names:
            more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
            yield f"{len(names)} {what}: {', '.join(names[:_NAMED])}{more}"


def rename(name: str) -> str:
    """The present name of a published tensor."""
    for pattern, replacement in _RENAMED:
        name = re.sub(pattern, replacement, name)
    return name


def read_published(folder: Path) -> tuple[Path, dict[str, Tensor]]:
    """The file of tensors in a folder, and what it holds, mapped from disk where the format allows it.

    Raises:
        InputError: There is none, or it holds something else than tensors.
    """
    path = _tensor_file(folder)
    try:
        if path.suffix == ".safetensors":
            state: Any = load_file(path)
        else:
            mapped = zipfile.is_zipfile(path)
            state = torch.load(os.fspath(path), map_location="cpu", weights_only=True, mmap=mapped)
    except Exception as error:
        raise InputError(f"{path} is no checkpoint of tensors: {str(error).splitlines()[0]}; fetch it again") from error
    if not isinstance(state, dict) or not all(isinstance(tensor, Tensor) for tensor in state.values()):
        raise InputError(f"{path} holds something else than named tensors; fetch it again")
    return path, {name: tensor for name, tensor in state.items() if name not in _IGNORED}


def _tensor_file(folder: Path) -> Path:
    path = next((folder / name for name in TENSOR_FILES if (folder / name).is_file()), None)
    if path is None:
        raise InputError(f"no tensors in {folder}: expected one of {', '.join(TENSOR_FILES)}")
    return path
