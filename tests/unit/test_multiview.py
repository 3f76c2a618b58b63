"""The multi-view UNet, its conditioning and sampling."""

import math

import pytest
import torch
from diffusers import DDIMScheduler

from img2mesh.diffusion.conditioning import class_labels
from img2mesh.diffusion.sampling import sample
from img2mesh.geometry.cameras import VIEW_AZIMUTHS_DEG
from img2mesh.models.multiview_unet import MultiviewUNet

CONFIG = {
    "sample_size": 8,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": [32, 32],
    "down_block_types": ["CrossAttnDownBlockMV2D", "DownBlock2D"],
    "mid_block_type": "UNetMidBlockMV2DCrossAttn",
    "up_block_types": ["UpBlock2D", "CrossAttnUpBlockMV2D"],
    "layers_per_block": 1,
    "cross_attention_dim": 8,
    "attention_head_dim": 4,
    "norm_num_groups": 8,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
    "multiview_attention": True,
    "cd_attention_mid": True,
    "joint_attention": False,
}


def network() -> MultiviewUNet:
    torch.manual_seed(0)
    unet = MultiviewUNet.from_published_config(CONFIG).eval()
    for name, parameter in unet.named_parameters():
        if "attn_joint_mid.to_out" in name:
            torch.nn.init.normal_(parameter, std=0.5)
    return unet


def predict(unet: MultiviewUNet, latents: torch.Tensor) -> torch.Tensor:
    rows = len(latents)
    labels = torch.zeros(rows, 10)
    with torch.no_grad():
        return unet(latents, torch.tensor(5), encoder_hidden_states=torch.ones(rows, 1, 8), class_labels=labels).sample


def changed(latents: torch.Tensor, row: int) -> list[bool]:
    """Which rows of the prediction depend on one row of the input."""
    unet = network()
    other = latents.clone()
    other[row] += 1
    return [bool(d > 1e-6) for d in (predict(unet, latents) - predict(unet, other)).abs().amax(dim=(1, 2, 3))]


def test_every_view_and_domain_of_an_object_depends_on_every_other() -> None:
    assert all(changed(torch.randn(12, 8, 8, 8), row=3))


def test_two_objects_of_a_batch_are_independent() -> None:
    rows = changed(torch.randn(24, 8, 8, 8), row=3)
    assert rows == [True] * 6 + [False] * 6 + [True] * 6 + [False] * 6


def test_the_extra_parameters_have_the_published_names() -> None:
    extra = {name.split("transformer_blocks.0.")[1] for name in network().state_dict() if "joint" in name}
    assert extra == {
        "attn_joint_mid.to_q.weight",
        "attn_joint_mid.to_k.weight",
        "attn_joint_mid.to_v.weight",
        "attn_joint_mid.to_out.0.weight",
        "attn_joint_mid.to_out.0.bias",
        "norm_joint_mid.weight",
        "norm_joint_mid.bias",
    }


def test_other_kinds_of_attention_are_refused() -> None:
    with pytest.raises(ValueError, match="cd_attention_last must be False"):
        MultiviewUNet.from_published_config({**CONFIG, "cd_attention_last": True})


def test_rows_name_the_domain_and_the_azimuth() -> None:
    rows = class_labels(VIEW_AZIMUTHS_DEG)
    assert rows.shape == (12, 10)
    # The second row is the normals of the view at 45 degrees; the eighth its colours.
    half = math.sqrt(0.5)
    assert rows[1].tolist() == pytest.approx([0, 0, half, math.sin(1), 0, 1, 1, half, math.cos(1), 1])
    assert rows[7, 3:5].tolist() == pytest.approx([0, math.sin(1)])


class Oracle:
    """A network that knows the answer: predicts the noise that leads to `target`."""

    def __init__(self, target: torch.Tensor, scheduler: DDIMScheduler) -> None:
        self.target, self.scheduler, self.batches = target, scheduler, []

    def __call__(
        self, sample: torch.Tensor, timestep: torch.Tensor, encoder_hidden_states: torch.Tensor, class_labels: torch.Tensor
    ) -> torch.Tensor:
        self.batches.append((sample[:, 4:].mean(dim=(1, 2, 3)), encoder_hidden_states.mean(dim=(1, 2)), class_labels))
        share = self.scheduler.alphas_cumprod[timestep]
        clean = self.target if len(sample) == 12 else torch.cat([self.target[:6]] * 2 + [self.target[6:]] * 2)
        return (sample[:, :4] - share.sqrt() * clean) / (1 - share).sqrt()


@pytest.mark.parametrize("guidance_scale", [1.0, 3.0])
def test_sampling_reaches_what_the_network_knows(guidance_scale: float) -> None:
    scheduler = DDIMScheduler(clip_sample=False, timestep_spacing="trailing")
    target = torch.randn(12, 4, 4, 4)
    oracle = Oracle(target, scheduler)
    result = sample(
        oracle,
        scheduler,
        condition=torch.ones(1, 4, 4, 4),
        channels=4,
        embedding=torch.ones(1, 8),
        labels=class_labels(VIEW_AZIMUTHS_DEG),
        steps=5,
        guidance_scale=guidance_scale,
        seed=3,
    )
    assert torch.allclose(result, target, atol=0.05)
    condition, embedding, labels = oracle.batches[0]
    if guidance_scale > 1:
        told = [0.0] * 6 + [1.0] * 6 + [0.0] * 6 + [1.0] * 6
        assert condition.tolist() == told
        assert embedding.tolist() == told
        assert torch.equal(labels[:6], labels[6:12])
    else:
        assert condition.tolist() == [1.0] * 12
