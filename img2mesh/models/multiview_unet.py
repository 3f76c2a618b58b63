"""The multi-view, cross-domain UNet: diffusers' UNet whose transformer blocks see six views and two domains at once.

Batch layout along dimension 0: `[normal, colour] x object x view`, halves by domain; with guidance
`[normal_uncond, normal_cond, colour_uncond, colour_cond]`, which has the same halves. Names and shapes of the parameters are
those of the published checkpoint.
"""

import copy
import inspect
from typing import Any

import torch
from diffusers import Transformer2DModel, UNet2DConditionModel
from jaxtyping import Float
from torch import Tensor, nn

# Keys of the published configuration that say what is always so here, or nothing at all.
_FIXED_KEYS = {
    "multiview_attention": True,
    "cd_attention_last": False,
    "sparse_mv_attention": False,
    "mvcd_attention": False,
}
_STRAY_KEYS = ("joint_attention", "joint_attention_twice", "cross_domain_attention")


class MultiviewTransformerBlock(nn.Module):
    """A diffusers transformer block with attention over views, then over domains, before the cross-attention.

    Attention in which each view asks its own tokens about those of all views is self-attention over the concatenated tokens of
    all views, and likewise for the two domains of one view; so both are plain self-attention after a reshape.

    Args:
        block: The block of diffusers' UNet whose layers it takes over.
        num_views: Views of one object.
        joint: Whether the two domains of a view see one another.

    Source: Long et al., Wonder3D, 2023, section 4.2.
    """

    def __init__(self, block: Any, *, num_views: int, joint: bool) -> None:
        super().__init__()
        self.num_views = num_views
        self.norm1, self.attn1 = block.norm1, block.attn1
        self.norm2, self.attn2 = block.norm2, block.attn2
        self.norm3, self.ff = block.norm3, block.ff
        self.joint = joint
        if joint:
            self.norm_joint_mid, self.attn_joint_mid = copy.deepcopy(block.norm1), copy.deepcopy(block.attn1)
            nn.init.zeros_(self.attn_joint_mid.to_out[0].weight)
            nn.init.zeros_(self.attn_joint_mid.to_out[0].bias)

    def forward(
        self,
        hidden_states: Float[Tensor, "batch token channel"],
        attention_mask: Tensor | None = None,
        encoder_hidden_states: Tensor | None = None,
        *_: Any,
        **__: Any,
    ) -> Float[Tensor, "batch token channel"]:
        """Features after attention over views, domains and the image embedding.

        The arguments are those of diffusers' block, in its order: gradient checkpointing passes them by position.
        """
        hidden = hidden_states + self._across_views(self.norm1(hidden_states))
        if self.joint:
            hidden = hidden + self._across_domains(self.norm_joint_mid(hidden))
        hidden = hidden + self.attn2(self.norm2(hidden), encoder_hidden_states=encoder_hidden_states)
        return hidden + self.ff(self.norm3(hidden))

    def _across_views(self, tokens: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        together = tokens.reshape(-1, self.num_views * tokens.shape[1], tokens.shape[2])
        return self.attn1(together).reshape(tokens.shape)

    def _across_domains(self, tokens: Float[Tensor, "batch token channel"]) -> Float[Tensor, "batch token channel"]:
        normal, colour = tokens.chunk(2)
        return torch.cat(self.attn_joint_mid(torch.cat([normal, colour], dim=1)).chunk(2, dim=1))


class MultiviewUNet(UNet2DConditionModel):
    """diffusers' UNet with multi-view and cross-domain attention.

    `forward(sample, timestep, encoder_hidden_states=..., class_labels=...)` as in diffusers: sample is [batch, 8, h, w] (noisy
    latent, then condition latent), `encoder_hidden_states` [batch, 1, d], `class_labels` [batch, 10] the camera and task rows.
    A batch holds whole objects: its size is a multiple of twice the number of views. Objects do not influence one another.
    """

    def __init__(self, *, num_views: int = 6, joint: bool = True, **unet_config: Any) -> None:
        super().__init__(**unet_config)
        self.rows = 2 * num_views if joint else num_views
        for module in list(self.modules()):
            if isinstance(module, Transformer2DModel):
                blocks = (MultiviewTransformerBlock(b, num_views=num_views, joint=joint) for b in module.transformer_blocks)
                module.transformer_blocks = nn.ModuleList(blocks)

    @classmethod
    def from_published_config(cls, config: dict[str, Any]) -> "MultiviewUNet":
        """The network that the keys of a published Wonder3D configuration describe.

        Args:
            config: As in `unet/config.json`; keys that are absent have diffusers' defaults, which are those of the published
                network. Block types may have the authors' names or diffusers'.

        Raises:
            ValueError: The configuration asks for another kind of attention than the published checkpoint has, or has a key
                that is unknown.
        """
        config = {key: value for key, value in config.items() if not key.startswith("_") and key not in _STRAY_KEYS}
        for key, expected in _FIXED_KEYS.items():
            if config.pop(key, expected) != expected:
                raise ValueError(f"unsupported UNet configuration: {key} must be {expected}")
        num_views, joint = config.pop("num_views", 6), config.pop("cd_attention_mid", True)
        unknown = sorted(config.keys() - inspect.signature(UNet2DConditionModel.__init__).parameters.keys())
        if unknown:
            raise ValueError(f"unsupported UNet configuration: unknown keys {', '.join(unknown)}")
        return cls(num_views=num_views, joint=joint, **{key: _as_in_diffusers(key, value) for key, value in config.items()})

    def forward(self, sample: Float[Tensor, "batch channel height width"], *args: Any, **kwargs: Any) -> Any:
        """The output of diffusers for `sample`, see the class.

        Raises:
            ValueError: The batch does not hold whole objects in both domains.
        """
        if len(sample) % self.rows:
            raise ValueError(f"expected a batch of whole objects, a multiple of {self.rows} rows; found {len(sample)}")
        return super().forward(sample, *args, **kwargs)


def _as_in_diffusers(key: str, value: Any) -> Any:
    """A value of the published configuration with diffusers' names of the blocks, and tuples where JSON has lists."""
    if key in ("down_block_types", "up_block_types"):
        return tuple(name.replace("MV2D", "2D") for name in value)
    if key == "mid_block_type" and value is not None:
        return value.replace("MV2D", "2D")
    return tuple(value) if isinstance(value, list) else value
