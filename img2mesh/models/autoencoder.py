"""The autoencoder: pictures and normal maps as latents, with their coverage as a fourth channel.

One AutoencoderKL serves both domains. A picture enters as sRGB over white, a normal map as the vectors themselves (zero in the
background); coverage follows as the last channel, so that generated views come with their masks. All channels are in [-1, 1].

The published autoencoder has three channels. Its generator paints normal maps over white, which read as vectors are (1, 1, 1):
longer than any normal, so that the length says what is covered.
"""

import functools
from typing import Any, Literal

import torch
from diffusers import AutoencoderKL
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import VIEW_NAMES, Cameras
from img2mesh.geometry.views import Views
from img2mesh.models.checkpoint import load_network
from img2mesh.models.colours import decided, steepened, with_colours_of, within
from img2mesh.models.placement import at_work, decoding, plan

Origin = Literal["published", "encoded", "generated"]

FRONT, RIGHT, BACK, LEFT = (VIEW_NAMES.index(name) for name in ("front", "right", "back", "left"))
# A place of a view that is covered less likely than this is taken for background by the fits: chosen on validation objects.
_COVERED_FROM = 0.58


def from_config(config: dict[str, Any]) -> AutoencoderKL:
    """The network that a weights file's configuration describes."""
    levels = len(config["block_out_channels"])
    return AutoencoderKL(
        **{key: value for key, value in config.items() if not key.endswith("_block_types")},
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
    )


@functools.cache
def load(name: str, sha256: str) -> AutoencoderKL:
    """The trained autoencoder, read once a process.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    return load_network(name, sha256, from_config)


@torch.no_grad()
def encode_picture(network: AutoencoderKL, front: Float[Tensor, "4 height width"]) -> Float[Tensor, "latent h w"]:
    """The latent of a picture over white with its coverage, unscaled: the distribution's mode."""
    packed = pack_colour(front[None, :3], front[None, 3])[:, : network.config["in_channels"]]
    with at_work(network) as place:
        return network.encode(packed.to(place)).latent_dist.mode()[0].cpu()


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


def unpack_painted(
    colour: Float[Tensor, "batch 3 height width"], normal: Float[Tensor, "batch 3 height width"]
) -> tuple[Float[Tensor, "batch 3 height width"], Float[Tensor, "batch height width"], Float[Tensor, "batch 3 height width"]]:
    """Picture, coverage and unit normals of outputs that have no coverage of their own: normals are painted over white.

    A normal has length 1 and the background sqrt 3; lengths between them are borders. Elsewhere than under the object the
    picture is white.
    """
    length = normal.norm(dim=1)
    alpha = ((3**0.5 - length) / (3**0.5 - 1)).clamp(0, 1)
    # The decoder does not meet the lengths exactly: all is covered up to a third of the way, and nothing from two thirds on.
    alpha = (alpha * 3 - 1).clamp(0, 1)
    picture = (colour / 2 + 0.5).clamp(0, 1)
    picture = torch.where(alpha[:, None] > 0, picture, torch.ones_like(picture))
    return picture, alpha, functional.normalize(normal, dim=1) * (alpha[:, None] > 0.5)


@torch.no_grad()
def encode_views(
    network: AutoencoderKL,
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
    normals: Float[Tensor, "view 3 height width"],
) -> dict[str, Float[Tensor, "view latent h w"]]:
    """Latents of true views as `decode_views` takes them, in the precision in which generated ones are handed on."""
    packed = {"colour": pack_colour(rgb, alpha), "normal": pack_normals(normals, alpha)}
    with at_work(network) as place:
        return {name: network.encode(each.to(place)).latent_dist.mode().half().cpu() for name, each in packed.items()}


@torch.no_grad()
def decode_views(
    latents: dict[str, Tensor],
    cameras: Cameras,
    front_rgba: Float[Tensor, "4 height width"],
    network: AutoencoderKL,
) -> Views:
    """The plain decode: every latent by itself.

    The front view is the prepared picture, since that is known.

    Args:
        latents: "colour" and "normal", each [view, channel, h, w], unscaled; also "coverage", [view, h, w], if there is any.
        front_rgba: The prepared picture, straight alpha, in [0, 1].
        network: The autoencoder.
    """
    colour, normal = (_decode(network, latents[domain]) for domain in ("colour", "normal"))
    if network.config["out_channels"] == 3:
        rgb, alpha, normals = unpack_painted(colour, normal)
    else:
        (rgb, alpha), normals = unpack_colour(colour), unpack_normals(normal)
    front = over_white(resize_rgba(front_rgba, cameras.width_px))
    generated = "coverage" in latents
    origin = origin_of(colour.shape[1], generated=generated)
    if origin != "published":
        rgb = with_colours_of(front, rgb[0], rgb, alpha)
    rgb, alpha = with_known(rgb, alpha, front, origin=origin)
    outlines = _outlines(latents["coverage"].float(), alpha) if generated else None
    return Views(cameras=cameras, rgb=rgb, alpha=alpha, normals=normals, outlines=outlines)


def origin_of(channels: int, *, generated: bool) -> Origin:
    """Where views come from that a network of so many channels has decoded.

    Only a compact network has coverage for a fourth channel, and only such a one loses hues.

    Args:
        generated: Whether they came with coverage, as those of the compact generator do.
    """
    if channels == 3:
        return "published"
    return "generated" if generated else "encoded"


def decode_picture(network: AutoencoderKL, latent: Float[Tensor, "latent h w"]) -> Float[Tensor, "3 height width"]:
    """Picture over white of one colour latent, unscaled, in [0, 1]."""
    return unpack_colour(_decode(network, latent[None]))[0][0]


def _outlines(
    coverage: Float[Tensor, "view small small"], alpha: Float[Tensor, "view height width"]
) -> Float[Tensor, "view height width"]:
    """What surfaces are fitted to: front and back as known, and of the other views what is covered with some certainty."""
    enlarged = functional.interpolate(coverage[None], size=alpha.shape[-2:], mode="bicubic")[0]
    outlines = (enlarged + 0.5 - _COVERED_FROM).clamp(0, 1)
    outlines[[FRONT, BACK]] = alpha[[FRONT, BACK]]
    return outlines


def _decode(network: AutoencoderKL, latents: Float[Tensor, "view latent h w"]) -> Float[Tensor, "view channel height width"]:
    """All latents decoded; where the pictures are large, only as many at once as the machine's plan says."""
    parts = latents.split(plan().latents if latents.shape[-1] > 16 else len(latents))
    with at_work(network) as place, decoding(place):
        return torch.cat([network.decode(part.to(place, torch.float32)).sample.float().cpu() for part in parts])


def with_known(
    rgb: Float[Tensor, "view 3 height width"],
    alpha: Float[Tensor, "view height width"],
    front: Float[Tensor, "4 height width"],
    *,
    origin: Origin,
) -> tuple[Float[Tensor, "view 3 height width"], Float[Tensor, "view height width"]]:
    """Decoded views with what the picture over white settles: the front, outlines, and the colours there are.

    Args:
        rgb: Over white.
        alpha: Coverage.
        front: The picture and its coverage.
        origin: What the compact generator made is unsure of outlines and colours; what is published is left as it is but for
            the front and the outline of the back.
    """
    known = alpha.clone() if origin == "published" else _alike(alpha, front[3])
    if origin == "generated":
        known = steepened(known)
    known[FRONT], known[BACK] = front[3], front[3].flip(-1)
    if origin == "generated":
        rgb = decided(front, rgb, alpha, known)
    else:
        changed = [BACK] if origin == "published" else range(1, len(rgb))
        rgb = rgb.clone()
        rgb[changed] = within(rgb[changed], alpha[changed], known[changed])
    rgb[FRONT] = front[:3]
    return rgb, known


def _alike(
    alpha: Float[Tensor, "view height width"], front: Float[Tensor, "height width"]
) -> Float[Tensor, "view height width"]:
    """Coverage as parallel rays of level cameras have it: no higher nor lower than the front's, and mirrored from behind."""
    sides = torch.minimum(alpha, front.amax(-1, keepdim=True))
    sides[RIGHT] = (sides[RIGHT] + sides[LEFT].flip(-1)) / 2
    sides[LEFT] = sides[RIGHT].flip(-1)
    return sides


def resize_rgba(rgba: Float[Tensor, "4 height width"], size_px: int) -> Float[Tensor, "4 size size"]:
    """A square picture at another size, averaged with premultiplied alpha; straight alpha in and out."""
    premultiplied = torch.cat([rgba[:3] * rgba[3:], rgba[3:]])
    small = functional.interpolate(premultiplied[None], size=(size_px, size_px), mode="area")[0]
    return torch.cat([small[:3] / small[3:].clamp(min=1e-6), small[3:]])


def over_white(rgba: Float[Tensor, "4 height width"]) -> Float[Tensor, "4 height width"]:
    """Colour composited over white, coverage kept."""
    return torch.cat([rgba[:3] * rgba[3:] + (1 - rgba[3:]), rgba[3:]])
