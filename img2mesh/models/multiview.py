"""The multi-view generator: image encoder and UNet, trained together, in one weights file."""

import functools
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from img2mesh.models.checkpoint import load_weights
from img2mesh.models.multiview_unet import MultiviewUNet


class MultiviewGenerator(nn.Module):
    """A picture's embedding and the network that it conditions.

    Attributes:
        config: The configurations of both networks and of the noise schedule, as the weights file keeps them.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.unet = MultiviewUNet.from_published_config(config["unet"])
        self.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["image_encoder"]))

    def embed(self, rgb: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 dim"]:
        """Image embedding of pictures over white in [0, 1], as one token each."""
        return self.image_encoder(rgb * 2 - 1).image_embeds[:, None]

    def forward(
        self,
        sample: Float[Tensor, "batch channel height width"],
        timestep: Tensor,
        encoder_hidden_states: Float[Tensor, "batch 1 dim"],
        class_labels: Float[Tensor, "batch 10"],
    ) -> Float[Tensor, "batch latent height width"]:
        """The UNet's prediction for [normal, colour] x object x view."""
        return self.unet(
            sample, timestep, encoder_hidden_states=encoder_hidden_states, class_labels=class_labels, return_dict=False
        )[0]

    def scheduler(self) -> DDIMScheduler:
        """A fresh sampler on the noise schedule that the network was trained with."""
        return DDIMScheduler(**self.config["scheduler"])


@functools.cache
def load(name: str, sha256: str) -> MultiviewGenerator:
    """The trained generator, read once a process.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    state, config = load_weights(name, sha256)
    network = MultiviewGenerator(config).eval().requires_grad_(requires_grad=False)
    network.load_state_dict(state)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
