"""Checkpoints in the layout of the published ones, with random tensors: small for most tests, at full size for one."""

import json
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, AutoencoderKLTemporalDecoder
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from img2mesh.models import MultiviewUNet

SCHEDULER = {
    "_class_name": "DDIMScheduler",
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "beta_start": 0.00085,
    "clip_sample": False,
    "num_train_timesteps": 1000,
    "prediction_type": "epsilon",
    "set_alpha_to_one": False,
    "skip_prk_steps": True,
    "steps_offset": 1,
    "timestep_spacing": "leading",
    "trained_betas": None,
}
UNET = {
    "_class_name": "UNetMV2DConditionModel",
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "down_block_types": ["CrossAttnDownBlockMV2D"] * 3 + ["DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlockMV2D"] * 3,
    "block_out_channels": [320, 640, 1280, 1280],
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
    "cd_attention_mid": True,
    "cd_attention_last": False,
    "multiview_attention": True,
    "sparse_mv_attention": False,
    "mvcd_attention": False,
    "joint_attention": False,
}
VAE = {"block_out_channels": [128, 256, 512, 512], "layers_per_block": 2, "latent_channels": 4, "scaling_factor": 0.18215}
CLIP = {
    "model_type": "clip_vision_model",
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "patch_size": 14,
    "projection_dim": 768,
    "image_size": 224,
}
SMALL_UNET = {"block_out_channels": [32] * 4, "layers_per_block": 1, "attention_head_dim": 2, "cross_attention_dim": 16}
SMALL_VAE = {"block_out_channels": [32, 32, 32, 32]}
SMALL_CLIP = {
    "hidden_size": 32,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "projection_dim": 16,
}


def random_state(network: nn.Module) -> dict[str, Tensor]:
    """Random fp16 tensors of a network that was made on the meta device: small matrices, norms at one."""
    generator = torch.Generator().manual_seed(0)
    state = {}
    for name, tensor in network.state_dict().items():
        fan_in = max(1, tensor[0].numel()) if tensor.ndim > 1 else 1e4
        values = torch.randn(tensor.shape, generator=generator) / fan_in**0.5 / 2
        state[name] = (values + ("norm" in name and name.endswith("weight"))).half()
    return state


def write(folder: Path, state: dict[str, Tensor], config: dict[str, Any], name: str = "diffusion_pytorch_model.bin") -> None:
    """One part of a checkpoint: a pickle of tensors and its configuration."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.save(state, folder / name)
    (folder / "config.json").write_text(json.dumps(config))


def write_checkpoint(folder: Path, *, small: bool = True) -> None:
    """A whole checkpoint below the folder, in the names that the published files have."""
    unet, vae, clip = (
        {**full, **(less if small else {})} for full, less in ((UNET, SMALL_UNET), (VAE, SMALL_VAE), (CLIP, SMALL_CLIP))
    )
    blocks = {"down_block_types": ["DownEncoderBlock2D"] * 4}
    with torch.device("meta"):
        networks = (
            MultiviewUNet.from_published_config(unet),
            AutoencoderKL(**vae, **blocks, up_block_types=["UpDecoderBlock2D"] * 4),
            AutoencoderKLTemporalDecoder(**vae, **blocks),
            CLIPVisionModelWithProjection(CLIPVisionConfig(**clip)),
        )
    write(
        folder / "unet",
        {name.replace("_joint_mid.", "_joint_twice."): t for name, t in random_state(networks[0]).items()},
        unet,
    )
    write(
        folder / "vae",
        {as_before(name): t for name, t in random_state(networks[1]).items()},
        {**vae, **blocks, "_class_name": "V"},
    )
    write(folder / "svd" / "vae", random_state(networks[2]), {**vae, **blocks, "force_upcast": True})
    position = {"vision_model.embeddings.position_ids": torch.arange(257)[None]}
    write(folder / "image_encoder", random_state(networks[3]) | position, clip, "pytorch_model.bin")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))


def as_before(name: str) -> str:
    """The name that a tensor of the autoencoder's attention had when the checkpoint was published."""
    for now, then in ((".to_q.", ".query."), (".to_k.", ".key."), (".to_v.", ".value."), (".to_out.0.", ".proj_attn.")):
        name = name.replace(f"attentions.0{now}", f"attentions.0{then}")
    return name
