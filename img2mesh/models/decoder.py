"""The depth-guided decoder: SVD's temporal decoder, told the front picture, its views exchanging features where they meet."""

import copy
import functools
from collections.abc import Callable
from typing import Any, cast

import torch
from diffusers import AutoencoderKLTemporalDecoder
from diffusers.models.unets.unet_3d_blocks import MidBlockTemporalDecoder
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional
from torch.utils.checkpoint import checkpoint

from img2mesh.geometry.cameras import Cameras, project
from img2mesh.geometry.depth import pool_depth
from img2mesh.geometry.views import Views
from img2mesh.models.attention import DepthTruncatedEpipolarAttention, zero
from img2mesh.models.checkpoint import load_network
from img2mesh.models.placement import at_work, decoding

# Beginnings of the names of what the temporal decoder lacks.
NEW_LAYERS = ("fronts.", "attentions.")


class DepthGuidedDecoder(nn.Module):
    """Latents of all views of one object -> pixel-aligned pictures with coverage.

    Every up-block is followed, before its upsampler, by the front view's condition and by depth-truncated epipolar attention.
    The front picture enters view 0 alone, at each resolution by space-to-depth; the attention carries it to the other views.
    All new layers start at zero: the untrained decoder is the temporal decoder it is built around.

    Args:
        config: Shape of the autoencoder's decoder; `num_views`; the attention's `radius`, `head_dim` and `samples`, one number
            an up-block, 0 for none there; `hidden`, how far behind a view's surface a point is hidden from it. For ablations:
            `epipolar` "full" spreads the samples over the whole ray whatever the depth, `front` False leaves the condition
            out, `alone` True decodes each view by itself in the temporal layers too.

    Attributes:
        checkpointing: Whether training keeps a layer's inputs only and computes the rest again on the way back.

    Source: Tang et al., Pixel-aligned multi-view generation with depth guided decoder, 2024.
    """

    def __init__(self, config: dict[str, Any]) -> None:
        super().__init__()
        channels, groups = config["block_out_channels"], config["norm_num_groups"]
        self.checkpointing = False
        self.decoder: Any = _temporal_decoder(config)
        self.whole_rays = config.get("epipolar") == "full"
        self.alone = config.get("alone", False)
        self.scales = [2 ** (len(channels) - 1 - level) for level in range(len(channels))]
        widths = list(reversed(channels))
        told = zip(widths, self.scales, strict=True) if config.get("front", True) else ()
        self.fronts = nn.ModuleList(FrontCondition(config["out_channels"], width, scale) for width, scale in told)
        self.attentions = nn.ModuleDict(
            {
                str(level): DepthTruncatedEpipolarAttention(
                    widths[level],
                    views=config["num_views"],
                    samples=samples,
                    radius=config["radius"],
                    hidden=None if self.whole_rays else config.get("hidden"),
                    heads=max(1, widths[level] // config["head_dim"]),
                    groups=groups,
                )
                for level, samples in enumerate(config["samples"])
                if samples
            }
        )

    def forward(
        self,
        latents: Float[Tensor, "view latent h w"],
        front: Float[Tensor, "channel height width"],
        depth: Float[Tensor, "view height width"],
        cameras: Cameras,
        generator: torch.Generator | None = None,
    ) -> Float[Tensor, "view channel height width"]:
        """Packed pictures in [-1, 1], see `autoencoder.pack_colour`.

        Args:
            latents: Unscaled, the front first.
            front: The prepared picture, packed alike.
            depth: z-depth of each view, scene units, 0 in the background.
            cameras: Of the full-size pictures.
            generator: Draws the points within their strata in training.
        """
        # The temporal layers take this for [sequence, frame].
        sequences = latents.new_zeros((len(latents), 1) if self.alone else (1, len(latents)))
        if self.whole_rays:
            depth = _through_the_centre(cameras)
        hidden = self._through(self.decoder.mid_block, self.decoder.conv_in(latents), image_only_indicator=sequences)
        for level, (block, scale) in enumerate(zip(self.decoder.up_blocks, self.scales, strict=True)):
            for resnet in block.resnets:
                hidden = self._through(resnet, hidden, image_only_indicator=sequences)
            if len(self.fronts):
                hidden = self.fronts[level](hidden, front)
            if str(level) in self.attentions:
                smaller = cameras.resized(cameras.width_px // scale, cameras.height_px // scale)
                hidden = self.attentions[str(level)](hidden, pool_depth(depth, scale), smaller, generator)
            for upsampler in block.upsamplers or ():
                hidden = self._through(upsampler, hidden)
        return self._through(self._pictures, hidden, sequences=sequences)

    def _through(self, layer: Callable[..., Tensor], hidden: Tensor, **told: Tensor) -> Tensor:
        if self.checkpointing and torch.is_grad_enabled():
            return checkpoint(functools.partial(layer, **told), hidden, use_reentrant=False)
        return layer(hidden, **told)

    def _pictures(self, hidden: Tensor, sequences: Tensor) -> Tensor:
        output = self.decoder.conv_out(self.decoder.conv_act(self.decoder.conv_norm_out(hidden)))
        return self.decoder.time_conv_out(output.unflatten(0, sequences.shape).movedim(2, 1)).movedim(1, 2).flatten(0, 1)

    def asking(self, *, radius: float | None = None, density: float = 1.0) -> "DepthGuidedDecoder":
        """The same network, asking points up to another distance from the surface, or more or fewer of them.

        Args:
            radius: Scene units; None: as trained.
            density: Points a ray, times the trained number. What was learned of their places is interpolated.
        """
        other = copy.deepcopy(self)
        for module in other.attentions.values():
            attention = cast("DepthTruncatedEpipolarAttention", module)
            attention.radius = attention.radius if radius is None else radius
            attention.samples = max(1, round(density * attention.samples))
            places = functional.interpolate(attention.place.T[None], attention.samples, mode="linear")[0].T
            attention.place = nn.Parameter(places.contiguous(), requires_grad=attention.place.requires_grad)
        return other


def _through_the_centre(cameras: Cameras) -> Float[Tensor, "view height width"]:
    """Depth of the plane through the scene's centre, everywhere: around it, the points of a ray span the scene."""
    place = cameras.focal_px.device
    _, depth = project(cameras, torch.zeros(len(cameras), 1, 3, device=place))
    return depth[:, :, None].expand(-1, cameras.height_px, cameras.width_px)


class FrontCondition(nn.Module):
    """The front picture at full detail, added to the features of view 0."""

    def __init__(self, picture_channels: int, channels: int, scale: int) -> None:
        super().__init__()
        self.scale = scale
        self.conv_in = nn.Conv2d(picture_channels * scale * scale, channels, 3, padding=1)
        self.conv_out = nn.Conv2d(channels, channels, 3, padding=1)
        zero(self.conv_out)

    def forward(
        self, features: Float[Tensor, "view channel h w"], front: Float[Tensor, "picture height width"]
    ) -> Float[Tensor, "view channel h w"]:
        """Features with the front's, as seen at their resolution, added to view 0."""
        told = self.conv_out(functional.silu(self.conv_in(functional.pixel_unshuffle(front[None], self.scale))))
        return torch.cat([features[:1] + told, features[1:]])


def _temporal_decoder(config: dict[str, Any]) -> Any:
    channels = config["block_out_channels"]
    network = AutoencoderKLTemporalDecoder(
        in_channels=config["out_channels"],
        out_channels=config["out_channels"],
        latent_channels=config["latent_channels"],
        block_out_channels=channels,
        layers_per_block=config["layers_per_block"],
        down_block_types=("DownEncoderBlock2D",) * len(channels),
    ).decoder
    # The image autoencoder has two blocks around its attention at any depth; the temporal one as many as `layers_per_block`.
    network.mid_block = MidBlockTemporalDecoder(channels[-1], channels[-1], attention_head_dim=channels[-1], num_layers=2)
    for module in network.modules():
        if isinstance(module, nn.GroupNorm):
            module.num_groups = config["norm_num_groups"]
        if isinstance(module, nn.Conv3d):
            module.__class__ = AcrossViews
    return network


class AcrossViews(nn.Conv3d):
    """A temporal layer's convolution over the views, at one pixel each: in two dimensions, where it is three times as fast."""

    def forward(self, hidden: Float[Tensor, "batch channel view height width"]) -> Tensor:
        """As its three-dimensional form."""
        flat = functional.conv2d(hidden.flatten(3), self.weight.squeeze(-1), self.bias, padding=(1, 0))
        return flat.unflatten(3, hidden.shape[3:])


def inherit(network: DepthGuidedDecoder, autoencoder: dict[str, Tensor]) -> None:
    """Start as the plain decoder of a trained AutoencoderKL: its weights, and temporal layers that do nothing yet."""
    state = {}
    for name, tensor in autoencoder.items():
        if name.startswith("decoder."):
            spatial = name.removeprefix("decoder.").replace("resnets.", "resnets.#")
            head, mark, tail = spatial.partition("#")
            state[f"{head}{tail.replace('.', '.spatial_res_block.', 1)}" if mark else head] = tensor
    unexpected = network.decoder.load_state_dict(state, strict=False).unexpected_keys
    if unexpected:
        raise ValueError(f"the autoencoder has weights that the temporal decoder lacks: {unexpected[:3]}")
    for name, module in network.decoder.named_modules():
        if name.endswith("temporal_res_block"):
            zero(module.conv2)
    zero(network.decoder.time_conv_out)
    nn.init.dirac_(network.decoder.time_conv_out.weight)


@functools.cache
def load(name: str, sha256: str) -> DepthGuidedDecoder:
    """The decoder, read once a process; a file without the new layers is that of the temporal decoder alone.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    return load_network(name, sha256, DepthGuidedDecoder, new=NEW_LAYERS)


@torch.no_grad()
def decode_views(
    network: DepthGuidedDecoder,
    latents: Float[Tensor, "view latent h w"],
    plain: Views,
    depth: Float[Tensor, "view height width"],
) -> tuple[Float[Tensor, "view 3 height width"], Float[Tensor, "view height width"]]:
    """Pictures over white and coverage of all views, in [0, 1].

    A decoder with three channels, as the published one, says nothing of coverage: that of the plain decode stays.

    Args:
        latents: Unscaled, the front first.
        plain: The plainly decoded views; their front is the prepared picture.
        depth: z-depth of each view, scene units, 0 in the background.
    """
    front = torch.cat([plain.rgb[0], plain.alpha[:1]])[: network.decoder.conv_out.out_channels] * 2 - 1
    with at_work(network) as place, decoding(place):
        decoded = network(latents.to(place), front.to(place), depth.to(place), plain.cameras.to(place)).float().cpu()
    image = (decoded / 2 + 0.5).clamp(0, 1)
    if image.shape[1] == 4:
        return image[:, :3], image[:, 3]
    return torch.where(plain.alpha[:, None] > 0, image, torch.ones_like(image)), plain.alpha
