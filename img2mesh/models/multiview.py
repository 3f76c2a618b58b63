"""The multi-view generator: image encoder and UNet, trained together, in one weights file."""

import functools
import math
from collections.abc import Callable
from typing import Any

import torch
from diffusers import DDIMScheduler
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

from img2mesh.models.autoencoder import BACK
from img2mesh.models.checkpoint import load_network
from img2mesh.models.multiview_unet import MultiviewUNet
from img2mesh.models.regressor import ViewRegressor

# The guess errs by some degrees, so that level pictures do not look quite level to it.
LEAST_ELEVATION_DEG = 8.0


class MultiviewGenerator(nn.Module):
    """A picture's embedding and the network that it conditions.

    Attributes:
        config: The configurations of the networks and of the noise schedule, as the weights file keeps them; and, for a
            published generator, how pictures are put before the encoder and which camera rows the network knows.
        guess: The first guess of the views, which a compact generator starts from; never trained with it.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        self.config = config
        self.unet = MultiviewUNet.from_published_config(config["unet"])
        self.image_encoder = CLIPVisionModelWithProjection(CLIPVisionConfig(**config["image_encoder"]))
        self.guess = ViewRegressor(config["guess"]).eval().requires_grad_(requires_grad=False) if "guess" in config else None

    def train(self, mode: bool = True) -> "MultiviewGenerator":
        """As in torch, but for the first guess, which is finished."""
        super().train(mode)
        if self.guess is not None:
            self.guess.eval()
        return self

    def embed(self, rgb: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 1 dim"]:
        """Image embedding of pictures over white in [0, 1], as one token each."""
        weight = self.image_encoder.visual_projection.weight
        return self.image_encoder(self._as_the_encoder_sees(rgb).to(weight)).image_embeds[:, None].to(rgb)

    def conditions(
        self, fronts: Float[Tensor, "object 4 height width"], encode: Callable[[Tensor], Tensor]
    ) -> Float[Tensor, "object view channel h w"]:
        """What the rows are told beside their noise: all the same, the front's latent, as in Wonder3D, which is one view here.

        With a first guess each view is told the guess of it too, and the back the latent of the mirrored front: orthographic
        views from front and back have mirrored outlines, and often like colours.

        Args:
            fronts: Over white, with coverage, in [0, 1].
            encode: Gives the scaled latents of such pictures.
        """
        latents = encode(fronts)[:, None]
        if self.guess is None:
            return latents
        guess = self.guess.views(fronts.to(self.guess.leave.weight)).to(latents)
        latents = latents.repeat(1, guess.shape[1], 1, 1, 1)
        latents[:, BACK] = encode(fronts.flip(-1))
        centred = torch.cat([guess[:, :, :4] * 2 - 1, guess[:, :, 4:]], dim=2)
        return torch.cat([latents, functional.pixel_unshuffle(centred, guess.shape[-1] // latents.shape[-1])], dim=2)

    def coverage(self, front: Float[Tensor, "4 height width"]) -> Float[Tensor, "view small small"] | None:
        """How likely each place of each view is covered, as far as there is a first guess."""
        if self.guess is None:
            return None
        coverage: Tensor = self.guess.views(front[None].to(self.guess.leave.weight))[0, :, 3]
        return coverage

    def front_elevation_deg(self, front: Float[Tensor, "4 height width"]) -> float:
        """From how far above the object the picture is taken; zero where that is too little to tell, or there is no guess."""
        if self.guess is None:
            return 0.0
        elevation_deg = math.degrees(float(self.guess.elevation(front[None].to(self.guess.leave.weight))[0]))
        return elevation_deg if elevation_deg >= LEAST_ELEVATION_DEG else 0.0

    def _as_the_encoder_sees(self, rgb: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 size size"]:
        """Pictures at the encoder's size with its channels' means and deviations; a compact encoder takes [-1, 1] as it is."""
        look = self.config.get("picture")
        if look is None:
            return rgb * 2 - 1
        size = (look["size_px"], look["size_px"])
        resized = functional.interpolate(rgb, size=size, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)
        mean, deviation = (rgb.new_tensor(look[key])[:, None, None] for key in ("mean", "deviation"))
        return (resized - mean) / deviation

    def forward(
        self,
        sample: Float[Tensor, "batch channel height width"],
        timestep: Tensor,
        encoder_hidden_states: Float[Tensor, "batch 1 dim"],
        class_labels: Float[Tensor, "batch 10"],
    ) -> Float[Tensor, "batch latent height width"]:
        """The UNet's prediction for [normal, colour] x object x view."""
        like = self.unet.conv_out.weight
        told = {"encoder_hidden_states": encoder_hidden_states.to(like), "class_labels": class_labels.to(like)}
        return self.unet(sample.to(like), timestep, **told, return_dict=False)[0].to(sample)

    def scheduler(self) -> DDIMScheduler:
        """A fresh sampler on the noise schedule that the network was trained with."""
        return DDIMScheduler(**self.config["scheduler"])


@functools.cache
def load(name: str, sha256: str) -> MultiviewGenerator:
    """The trained generator, read once a process.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    network = load_network(name, sha256, MultiviewGenerator)
    return network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]  # missing in torch's stubs
