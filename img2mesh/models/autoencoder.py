"""The autoencoder: pictures and normal maps as latents, with their coverage as a fourth channel.

One AutoencoderKL serves both domains. A picture enters as sRGB over white, a normal map as the vectors themselves (zero in the
background); coverage follows as the last channel, so that generated views come with their masks. All channels are in [-1, 1].
"""

import functools
from typing import Any

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import VIEW_NAMES, Cameras
from img2mesh.geometry.views import Views
from img2mesh.models.checkpoint import load_weights

BACK = VIEW_NAMES.index("back")


def from_config(config: dict[str, Any]) -> AutoencoderKL:
    """The network that a weights file's configuration describes."""
    levels = len(config["block_out_channels"])
    return AutoencoderKL(
        **config,
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


@functools.cache
def load(name: str, sha256: str) -> AutoencoderKL:
    """The trained autoencoder, read once a process.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    state, config = load_weights(name, sha256)
    network = from_config(config).eval().requires_grad_(requires_grad=False)
    network.load_state_dict(state)
    return network


def pack_colour(
    rgb: Float[Tensor, "batch 3 height width"], alpha: Float[Tensor, "batch height width"]
) -> Float[Tensor, "batch 4 height width"]:
    """Network input of a picture over white and its coverage, both in [0, 1]."""
    return torch.cat([rgb, alpha[:, None]], dim=1) * 2 - 1


def pack_normals(
    normals: Float[Tensor, "batch 3 height width"], alpha: Float[Tensor, "batch height width"]
) -> Float[Tensor, "batch 4 height width"]:
    """Network input of a normal map (zero in the background) and its coverage in [0, 1]."""
    return torch.cat([normals, alpha[:, None] * 2 - 1], dim=1)


def unpack_colour(
    packed: Float[Tensor, "batch 4 height width"],
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch height width"]]:
    """Picture and coverage of a network output: the inverse of `pack_colour`, clipped to [0, 1]."""
    image = (packed / 2 + 0.5).clamp(0, 1)
    return image[:, :3], image[:, 3]


def unpack_normals(packed: Float[Tensor, "batch 4 height width"]) -> Float[Tensor, "batch 3 height width"]:
    """Unit normals of a network output, zero where it says background."""
    covered = packed[:, 3:] > 0
    return functional.normalize(packed[:, :3], dim=1) * covered


@torch.no_grad()
def decode_views(
    latents: dict[str, Tensor],
    cameras: Cameras,
    front_rgba: Float[Tensor, "4 height width"],
    *,
    name: str,
    sha256: str,
) -> Views:
    """The plain decode: every latent by itself.

    The front view is the prepared picture, since that is known.

    Args:
        latents: "colour" and "normal", each [view, channel, h, w], unscaled.
        front_rgba: The prepared picture, straight alpha, in [0, 1].
        name: Weights of the autoencoder.
        sha256: Their digest.
    """
    network = load(name, sha256)
    rgb, alpha = unpack_colour(network.decode(latents["colour"].float()).sample)
    normals = unpack_normals(network.decode(latents["normal"].float()).sample)
    front = over_white(resize_rgba(front_rgba, cameras.width_px))
    rgb, alpha = with_known(rgb, alpha, front)
    return Views(cameras=cameras, rgb=rgb, alpha=alpha, normals=normals)


def with_known(
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
    front: Float[Tensor, "4 height width"],
) -> tuple[Float[Tensor, "view 3 height width"], Float[Tensor, "view height width"]]:
    """Decoded views with what the picture over white settles: the front, and the outline of the back.

    Through parallel rays an object's outline from behind is that from the front, mirrored.
    """
    rgb, alpha = rgb.clone(), alpha.clone()
    rgb[0], alpha[0] = front[:3], front[3]
    alpha[BACK] = front[3].flip(-1)
    rgb[BACK] = torch.maximum(rgb[BACK], 1 - alpha[BACK])
    return rgb, alpha


def resize_rgba(rgba: Float[Tensor, "4 height width"], size_px: int) -> Float[Tensor, "4 size size"]:
    """A square picture at another size, averaged with premultiplied alpha; straight alpha in and out."""
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    small = functional.interpolate(premultiplied[None], size=(size_px, size_px), mode="area")[0]
    return torch.cat([small[:3] / small[3:].clamp(min=1e-6), small[3:]])


def over_white(rgba: Float[Tensor, "4 height width"]) -> Float[Tensor, "4 height width"]:
    """Colour composited over white, coverage kept."""
    return torch.cat([rgba[:3] * rgba[3:] + (1 - rgba[3:]), rgba[3:]])
