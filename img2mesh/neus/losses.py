"""Terms of the loss, each per ray or per voxel."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

# A cosine between viewing direction and normal above this is a normal seen from behind or along the surface.
_FACING_COSINE = -0.1
# Opacities keep this distance from 0 and 1 in logarithms.
_OPACITY_MARGIN = 1e-3
# Bends of the normal far above this squared chord (about 30 degrees) are creases, which cost no more when sharper.
_CREASE = 0.27


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the views say about rays.

    Attributes:
        directions: Unit length, world frame.
        rgb: Over white.
        alpha: Coverage.
        normals: Unit, world frame; zero in the background.
        trust: Weight of the ray's mask and normal.
        mask_weight: Weight of its mask on top of that.
        front: The ray belongs to view 0, whose colour and mask are the truth.
    """

    directions: Float[Tensor, "rays 3"]
    rgb: Float[Tensor, "rays 3"]
    alpha: Float[Tensor, "rays"]
    normals: Float[Tensor, "rays 3"]
    trust: Float[Tensor, "rays"]
    mask_weight: Float[Tensor, "rays"]
    front: Bool[Tensor, "rays"]

    def of(self, rays: Tensor) -> "Targets":
        """The targets of some rays."""
        return Targets(**{name: getattr(self, name)[rays] for name in self.__dataclass_fields__})


def trimmed_mean(
    loss: Float[Tensor, "rays"], kept: float, weight: Float[Tensor, "rays"], never_dropped: Bool[Tensor, "rays"]
) -> Float[Tensor, ""]:
    """Weighted mean without the rays of highest loss.

    Args:
        kept: Share of the droppable rays that stays, lowest first.
        weight: Rays of weight 0 count neither as kept nor as dropped.
        never_dropped: Rays that stay whatever their loss is.
    """
    counted = weight > 0
    droppable = loss.detach()[counted & ~never_dropped]
    stays = counted
    if kept < 1 and len(droppable):
        highest = droppable.kthvalue(max(1, int(kept * len(droppable)))).values
        stays = counted & (never_dropped | (loss.detach() <= highest))
    return torch.where(stays, loss * weight, 0.0).sum() / stays.sum().clamp(min=1)


def rgb_loss(rendered: Float[Tensor, "rays 3"], opacity: Float[Tensor, "rays"], targets: Targets) -> Float[Tensor, "rays"]:
    """Squared difference of the colours over white."""
    return (rendered + (1 - opacity)[:, None] - targets.rgb).square().mean(-1)


def mask_loss(opacity: Float[Tensor, "rays"], targets: Targets) -> Float[Tensor, "rays"]:
    """Binary cross-entropy of the opacity."""
    return F.binary_cross_entropy(opacity.clamp(_OPACITY_MARGIN, 1 - _OPACITY_MARGIN), targets.alpha, reduction="none")


def normal_loss(rendered: Float[Tensor, "rays 3"], targets: Targets) -> tuple[Float[Tensor, "rays"], Float[Tensor, "rays"]]:
    """One minus the cosine, and how much it counts: more the squarer the surface is seen, nothing where it is not.

    Args:
        rendered: Sums of unit normals, of any length.
    """
    cosine = (F.normalize(rendered, dim=-1, eps=1e-4) * targets.normals).sum(-1)
    seen = (targets.normals * targets.directions).sum(-1)
    counts = (targets.alpha > 0.5) & (seen < _FACING_COSINE)
    return 1 - cosine, torch.where(counts, torch.exp(seen.abs()), 0.0)


def eikonal_loss(lengths: Float[Tensor, "voxels"]) -> Float[Tensor, ""]:
    """Mean squared difference of the gradients' lengths from 1, which makes the field a distance."""
    return (lengths - 1).square().mean()


def sparsity_loss(values: Float[Tensor, "voxels"], inv_std: float) -> Float[Tensor, ""]:
    """Share of voxels close to a surface."""
    return torch.exp(-inv_std * values.abs()).mean()


def smoothness_loss(bends: Float[Tensor, "pairs 3"]) -> Float[Tensor, ""]:
    """Robust squared bend between neighbouring normals: creases and thin parts cost a bounded amount.

    Args:
        bends: Differences of neighbouring unit normals.
    """
    if not len(bends):
        return bends.sum()
    # As a product, a sum over three neighbours in memory takes a tenth of the time.
    squared = bends.square() @ bends.new_ones(3)
    return (squared / (squared + _CREASE)).mean()
