"""Decoders on the same latents: how near their pictures are to the rendered ones, and whether the views agree."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from img2mesh.data.dataset import Sample
from img2mesh.errors import InputError
from img2mesh.evaluation.views import Pictures, picture_scores
from img2mesh.geometry.cameras import Cameras
from img2mesh.metrics.consistency import Matcher, count_matches, neighbours, reprojection_error
from img2mesh.metrics.image import psnr
from img2mesh.metrics.lpips import Lpips
from img2mesh.models.autoencoder import pack_colour, unpack_colour
from img2mesh.models.checkpoint import read_weights
from img2mesh.models.decoder import DepthGuidedDecoder


@dataclass(frozen=True, kw_only=True)
class Scene:
    """What the decoders are given, and what their pictures are held against.

    Attributes:
        latents: Of the colours, unscaled, the front first.
        depth: What guides a decoder: z-depth, scene units, 0 in the background.
        geometry: By which the same surface point is found in two views, z-depth.
    """

    truth: Sample
    cameras: Cameras
    latents: Float[Tensor, "view latent h w"]
    depth: Float[Tensor, "view height width"]
    geometry: Float[Tensor, "view height width"]


@dataclass(frozen=True, kw_only=True)
class Judges:
    """The measures that need something installed."""

    lpips: Lpips | None
    matchers: dict[str, Matcher]


def load_variant(path: Path) -> DepthGuidedDecoder:
    """A depth-guided decoder from a weights file, built as the file's own configuration says.

    Raises:
        InputError: There is no such file, or it holds no such decoder.
    """
    if not path.is_file():
        raise InputError(
            f"no weights at {path}: give --variant NAME=PATH with a decoder.safetensors of `img2mesh train decoder`"
        )
    try:
        state, config = read_weights(path)
        network = DepthGuidedDecoder(config).eval().requires_grad_(requires_grad=False)
        network.load_state_dict(state)
    except Exception as error:  # safetensors, json and torch each raise their own
        reason = " ".join(str(error).split())[:200]
        raise InputError(f"{path} holds no depth-guided decoder ({type(error).__name__}: {reason})") from error
    return network


@torch.no_grad()
def decode_guided(network: DepthGuidedDecoder, scene: Scene) -> Pictures:
    """The pictures of a depth-guided decoder, all six as it makes them."""
    front = pack_colour(scene.truth.rgb[:1], scene.truth.alpha[:1])[0]
    place = next(network.parameters()).device
    inputs = (tensor.to(place) for tensor in (scene.latents, front, scene.depth))
    rgb, alpha = unpack_colour(network(*inputs, scene.cameras.to(place)).cpu())
    return Pictures(rgb=rgb, alpha=alpha)


@torch.no_grad()
def decode_plain(autoencoder: Any, scene: Scene) -> Pictures:
    """The pictures of the autoencoder's own decoder, each view by itself."""
    rgb, alpha = unpack_colour(autoencoder.decode(scene.latents.to(autoencoder.device)).sample.cpu())
    return Pictures(rgb=rgb, alpha=alpha)


def decoder_scores(pictures: Pictures, scene: Scene, judges: Judges) -> dict[str, float]:
    """`picture_scores` of the unseen views, PSNR of the front by itself, and `agreement`."""
    return {
        **picture_scores(pictures, scene.truth, judges.lpips),
        "front_psnr_db": psnr(pictures.rgb[0], scene.truth.rgb[0]),
        **agreement(pictures, scene, judges),
    }


def agreement(pictures: Pictures, scene: Scene, judges: Judges) -> dict[str, float]:
    """How well neighbours among the five unseen views agree, and by itself how well they agree with the front.

    `reprojection` is the mean difference of colour at surface points that two neighbours see, `front_reprojection` that of the
    front and its two neighbours; `<matcher>_matches` the matches a pair of neighbours, `<matcher>_true` those of them on the
    epipolar line, since a matcher is also pleased by what is alike.
    """
    everyone = neighbours(len(pictures.rgb))
    pairs, of_front = [pair for pair in everyone if 0 not in pair], [pair for pair in everyone if 0 in pair]
    scores = {
        name: reprojection_error(pictures.rgb, scene.geometry, scene.cameras, those)
        for name, those in (("reprojection", pairs), ("front_reprojection", of_front))
    }
    for name, match in judges.matchers.items():
        found, true = count_matches(pictures.rgb, scene.cameras, pairs, match)
        scores |= {f"{name}_matches": found, f"{name}_true": true}
    return scores
