"""The arithmetic of the depth-truncated epipolar attention: little memory, each number computed once.

Written down plainly, every ray gathers the features of its points from all other views, and an MLP turns each point into a key
and a value. Three identities make that small:

- Interpolation and the MLP's first layer are both linear: the layer is applied to the feature maps, one slice of it a source,
  and the sum over sources and over the corners of a pixel is one weighted sum of rows of a table.
- Keys and values are linear in the MLP's hidden features g. A head's score q . K g is (K^T q) . g, its result V (sum of a g):
  both are computed once a ray instead of once a point.
- The normalisation is an affine map of each channel, which goes into the weights of the layer behind it.

The rest is order: one view at a time and a few rays at a time, in the backward pass again, where the tables are recomputed.
"""

import functools
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from img2mesh.geometry.epipolar import Sight, Sightings

# Numbers that the rays in flight may need, on the processor and on a GPU.
_BUDGET = {"cpu": 2**22, "cuda": 2**27}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What the attention needs besides features and weights.

    Attributes:
        sightings: Where the points of each view's rays are seen in the other views.
        rays: Pluecker coordinates of all rays.
        groups: Of the normalisation.
        eps: Of the normalisation.
    """

    sightings: Sightings
    rays: Float[Tensor, "view 6 pixel"]
    groups: int
    eps: float


class Mixing(NamedTuple):
    """The weights behind the first layer.

    Attributes:
        place: What each place on the ray adds to the first-layer features of the point there.
        keys: Projection of hidden features to keys, scaled.
        values: Projection of hidden features to values.
        bias: Of the output.
    """

    to_q: Float[Tensor, "channel input"]
    place: Float[Tensor, "sample hidden"]
    keys: Float[Tensor, "head dim hidden"]
    values: Float[Tensor, "head dim hidden"]
    to_out: Float[Tensor, "channel channel"]
    bias: Float[Tensor, "channel"]


def attend(
    told: Float[Tensor, "ray input"], seen: Float[Tensor, "ray sample hidden"], weights: Mixing
) -> Float[Tensor, "ray channel"]:
    """What each ray learns from its points.

    Args:
        told: Normalised features and Pluecker coordinates of the asking pixels.
        seen: First-layer features of the points, summed over the other views.
    """
    to_q, place, keys, values, to_out, bias = weights
    heads = len(keys)
    hidden = functional.silu(seen + place)
    query = (told @ to_q.T).unflatten(1, (heads, -1)).transpose(0, 1)
    asked = (query @ keys).transpose(0, 1)
    mixed = (asked @ hidden.mT).softmax(dim=-1).to(hidden) @ hidden
    answer = (mixed.transpose(0, 1) @ values.mT).transpose(0, 1).flatten(1)
    return answer @ to_out.T + bias


@functools.cache
def _attend_on(device_type: str) -> Callable[[Tensor, Tensor, Mixing], Tensor]:
    """`attend`, compiled for a GPU if IMG2MESH_COMPILE is 1 and there is a compiler.

    torch's fused attention is no choice here: it pads the few points of a ray to a tile of 64.
    """
    wanted = device_type == "cuda" and os.environ.get("IMG2MESH_COMPILE") == "1" and find_spec("triton") is not None
    return torch.compile(attend, dynamic=True) if wanted else attend


class Exchange(torch.autograd.Function):
    """Features plus what `attend` gives for every ray with depth; the backward pass computes the tables again."""

    @staticmethod
    def forward(ctx: Any, layer: Layer, features: Tensor, *weights: Tensor) -> Tensor:
        """Features after the exchange.

        Args:
            ctx: Keeps the inputs, and nothing that was computed from them.
            layer: Geometry and settings.
            features: [view, channel, height, width].
            weights: Of the normalisation (weight, bias), of the query, of the first layer (one slice a source), and the further
                ones of `attend` in its order.
        """
        ctx.layer = layer
        ctx.autocast = torch.is_autocast_enabled(features.device.type), torch.get_autocast_dtype(features.device.type)
        ctx.save_for_backward(features, *weights)
        passage = _Passage(layer, features, weights)
        output = features.flatten(2).clone()
        for view in range(len(features)):
            sight = layer.sightings.of(view)
            table = passage.table(view)
            for part in passage.parts(len(sight.rays)):
                seen = sight.look_up(table, part)
                learned = _attend_on(features.device.type)(
                    passage.told(view, sight.rays[part]), seen.to(features), passage.mixing
                )
                output[view].index_add_(1, sight.rays[part], learned.T.to(output))
        return output.view_as(features)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Gradients of the features and of all weights."""
        features, *weights = ctx.saved_tensors
        enabled, dtype = ctx.autocast
        with torch.autocast(features.device.type, dtype=dtype, enabled=enabled):
            passage = _Passage(ctx.layer, features, tuple(weights))
            returning = _Return(passage, gradient.flatten(2))
            for view in range(len(features)):
                returning.view(view)
        return None, returning.features().view_as(features), *returning.weights()


class _Passage:
    """The way from features to outputs, in pieces that both directions use."""

    def __init__(self, layer: Layer, features: Tensor, weights: tuple[Tensor, ...]) -> None:
        self.layer, self.count = layer, len(features)
        self.pixels = features.flatten(2)
        self.norm_weight, self.norm_bias, self.to_q, self.slices, *rest = weights
        self.mixing = Mixing(self.to_q, *rest)
        precise = torch.promote_types(features.dtype, torch.float32)
        grouped = [pixels.unflatten(0, (layer.groups, -1)).to(precise) for pixels in self.pixels]
        variance, mean = map(torch.stack, zip(*(torch.var_mean(g, dim=(1, 2), correction=0) for g in grouped), strict=True))
        width = features.shape[1] // layer.groups
        self.mean = mean.repeat_interleave(width, dim=1)
        self.inverse = (variance + layer.eps).rsqrt().repeat_interleave(width, dim=1)
        # The normalisation as `scale * x + shift`, each [view, channel].
        self.scale = self.norm_weight * self.inverse
        self.shift = self.norm_bias - self.mean * self.scale

    def sources(self, view: int) -> Iterator[tuple[int, int]]:
        """Each source of a view with its number, in the order of the first layer's slices."""
        return ((number, (view + number + 1) % self.count) for number in range(self.count - 1))

    def split(self, number: int) -> tuple[Tensor, Tensor]:
        """A source's slice of the first layer: what reads features, and what reads rays."""
        channels = self.pixels.shape[1]
        return self.slices[number][:, :channels], self.slices[number][:, channels:]

    def table(self, view: int) -> Tensor:
        """First-layer features of all pixels of a view's sources, [source * pixel, hidden], single precision at least."""
        hidden, pixels = self.slices.shape[1], self.pixels.shape[2]
        table = self.scale.new_empty(self.count - 1, pixels, hidden)
        for number, source in self.sources(view):
            reading, aiming = self.split(number)
            scaled, shifted = (reading * self.scale[source]).to(self.pixels), reading.to(self.scale) @ self.shift[source]
            table[number] = self.pixels[source].T @ scaled.T
            table[number] += self.layer.rays[source].T @ aiming.T
            table[number] += shifted
        return table.flatten(0, 1)

    def told(self, view: int, rays: Tensor) -> Tensor:
        """Normalised features and Pluecker coordinates of some pixels, [ray, input]."""
        normal = self.pixels[view][:, rays] * self.scale[view][:, None] + self.shift[view][:, None]
        return torch.cat([normal.to(self.pixels), self.layer.rays[view][:, rays]]).T

    def parts(self, rays: int) -> Iterator[slice]:
        """Slices of a view's rays that fit into the budget."""
        heads, dim, hidden = self.mixing.keys.shape
        each = 4 * hidden * (self.layer.sightings.samples + heads) + 4 * heads * dim
        step = max(16, _BUDGET.get(self.pixels.device.type, _BUDGET["cpu"]) // each)
        return (slice(start, min(start + step, rays)) for start in range(0, rays, step))


class _Return:
    """The way back: gradients, view by view, summed where they belong."""

    def __init__(self, passage: _Passage, gradient: Tensor) -> None:
        self.passage, self.gradient = passage, gradient
        # Of the normalised features, until `features` takes the normalisation into account.
        self.normal = torch.zeros_like(passage.pixels, dtype=passage.scale.dtype)
        self.slices = torch.zeros_like(passage.slices)
        self.mixing = [torch.zeros_like(weight) for weight in passage.mixing]
        self.norm = torch.zeros_like(passage.norm_weight), torch.zeros_like(passage.norm_bias)

    def view(self, view: int) -> None:
        """Add what the outputs of one view ask for."""
        passage = self.passage
        sight = passage.layer.sightings.of(view)
        if not len(sight.rays):
            return
        self._through_first_layer(view, sight.scatter(self._through_attention(view, sight), passage.count - 1))

    def _through_attention(self, view: int, sight: Sight) -> Float[Tensor, "ray sample hidden"]:
        """Gradients of what the rays have seen."""
        passage, channels = self.passage, self.passage.pixels.shape[1]
        table = passage.table(view)
        wanted = table.new_empty(*sight.rows.shape[:2], table.shape[1])
        for part in passage.parts(len(sight.rays)):
            rays = sight.rays[part]
            told, seen = passage.told(view, rays), sight.look_up(table, part).to(passage.pixels)
            leaves = [leaf.detach().requires_grad_() for leaf in (told, seen, *passage.mixing)]
            with torch.enable_grad():
                learned = _attend_on(told.device.type)(leaves[0], leaves[1], Mixing(*leaves[2:]))
            of_told, of_seen, *of_weights = torch.autograd.grad(learned, leaves, self.gradient[view][:, rays].T.to(learned))
            self.normal[view].index_add_(1, rays, of_told[:, :channels].T.to(self.normal))
            for total, one in zip(self.mixing, of_weights, strict=True):
                total.add_(one)
            wanted[part] = of_seen
        return wanted

    def _through_first_layer(self, view: int, table: Float[Tensor, "source pixel hidden"]) -> None:
        passage, channels = self.passage, self.passage.pixels.shape[1]
        for number, source in passage.sources(view):
            reading, _ = passage.split(number)
            one = table[number].to(passage.pixels)
            by_feature = (one.T @ passage.pixels[source].T) * passage.scale[source]
            self.slices[number][:, :channels] += by_feature + table[number].sum(dim=0)[:, None] * passage.shift[source]
            self.slices[number][:, channels:] += one.T @ passage.layer.rays[source].T
            self.normal[source] += reading.T.to(one) @ one.T

    def features(self) -> Tensor:
        """Gradients of the features: through the normalisation, and past the whole layer."""
        passage = self.passage
        groups, pixels = passage.layer.groups, passage.pixels.shape[2]
        for view, (normal, feature) in enumerate(zip(self.normal, passage.pixels, strict=True)):
            mean, inverse = passage.mean[view], passage.inverse[view]
            total, product = normal.sum(dim=1), (normal * feature).sum(dim=1)
            by_weight = inverse * (product - mean * total)
            self.norm[0].add_(by_weight)
            self.norm[1].add_(total)
            width = len(mean) // groups
            both = torch.stack([passage.norm_weight * total, passage.norm_weight * by_weight]).unflatten(1, (groups, -1))
            level, slope = (both.sum(dim=2) / (width * pixels)).repeat_interleave(width, dim=1)
            normal.mul_((inverse * passage.norm_weight)[:, None]).sub_(feature * (inverse**2 * slope)[:, None])
            normal.add_((inverse * (inverse * slope * mean - level))[:, None]).add_(self.gradient[view])
        return self.normal.to(passage.pixels)

    def weights(self) -> tuple[Tensor, ...]:
        """Gradients of all weights, in the order in which `Exchange` takes them."""
        to_q, *rest = self.mixing
        return *self.norm, to_q, self.slices, *rest
