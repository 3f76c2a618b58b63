"""The multi-view UNet at many sizes: against a twin that gathers keys as the paper has it, and what must hold at any size."""

from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from img2mesh.models import MultiviewUNet
from img2mesh.models.multiview_unet import MultiviewTransformerBlock

CROSS = 6


def network(width: int, depth: int, layers: int, heads: int, views: int = 6, **more: Any) -> MultiviewUNet:
    """A network with random weights everywhere: the joint attention's own start is zero."""
    torch.manual_seed(0)
    config = {
        "in_channels": 8,
        "out_channels": 4,
        "block_out_channels": [width * (level + 1) for level in range(depth)],
        "down_block_types": ["CrossAttnDownBlockMV2D"] * (depth - 1) + ["DownBlock2D"],
        "up_block_types": ["UpBlock2D"] + ["CrossAttnUpBlockMV2D"] * (depth - 1),
        "mid_block_type": "UNetMidBlockMV2DCrossAttn",
        "layers_per_block": layers,
        "cross_attention_dim": CROSS,
        "attention_head_dim": heads,
        "norm_num_groups": 4,
        "class_embed_type": "projection",
        "projection_class_embeddings_input_dim": 10,
        "num_views": views,
    }
    unet = MultiviewUNet.from_published_config({**config, **more}).double().eval()
    for name, parameter in unet.named_parameters():
        if "joint" in name:
            torch.nn.init.normal_(parameter, std=0.4)
    return unet


def inputs(objects: int, views: int, size: tuple[int, int]) -> dict[str, Tensor]:
    generator = torch.Generator().manual_seed(1)
    rows = 2 * objects * views
    drawn = {"sample": (rows, 8, *size), "encoder_hidden_states": (rows, 1, CROSS), "class_labels": (rows, 10)}
    return {name: torch.randn(shape, generator=generator, dtype=torch.float64) for name, shape in drawn.items()}


def predict(unet: MultiviewUNet, told: dict[str, Tensor]) -> Tensor:
    with torch.no_grad():
        return unet(timestep=torch.tensor(321), **told).sample


def gathering(block: MultiviewTransformerBlock, tokens: Tensor, context: Tensor) -> Tensor:
    """The block as the paper writes it, row by row: queries of one row, keys and values of all rows that it may see."""
    half, views = len(tokens) // 2, block.num_views

    def attend(attention: Any, asking: Tensor, seen: Tensor) -> Tensor:
        heads = [t.unflatten(-1, (attention.heads, -1)).transpose(0, 1) for t in (attention.to_k(seen), attention.to_v(seen))]
        query = attention.to_q(asking).unflatten(-1, (attention.heads, -1)).transpose(0, 1)
        weights = (query @ heads[0].mT / query.shape[-1] ** 0.5).softmax(dim=-1)
        return attention.to_out[0]((weights @ heads[1]).transpose(0, 1).flatten(1))

    normed = block.norm1(tokens)
    objects = [normed[row // views * views : row // views * views + views].flatten(0, 1) for row in range(len(tokens))]
    tokens = tokens + torch.stack([attend(block.attn1, n, seen) for n, seen in zip(normed, objects, strict=True)])
    normed = block.norm_joint_mid(tokens)
    pairs = [torch.cat([normed[row % half], normed[row % half + half]]) for row in range(len(tokens))]
    tokens = tokens + torch.stack([attend(block.attn_joint_mid, n, seen) for n, seen in zip(normed, pairs, strict=True)])
    normed = block.norm2(tokens)
    tokens = tokens + torch.stack([attend(block.attn2, n, seen) for n, seen in zip(normed, context, strict=True)])
    return tokens + block.ff(block.norm3(tokens))


@given(heads=st.sampled_from([1, 2, 4]), views=st.integers(1, 4), objects=st.integers(1, 2), tokens=st.integers(1, 5))
@settings(max_examples=12, deadline=None)
def test_a_block_equals_its_gathering_twin(heads: int, views: int, objects: int, tokens: int) -> None:
    unet = network(8, 2, 1, heads, views)
    [block] = unet.mid_block.attentions[0].transformer_blocks
    generator = torch.Generator().manual_seed(2)
    hidden = torch.randn(2 * objects * views, tokens, 16, generator=generator, dtype=torch.float64)
    context = torch.randn(2 * objects * views, 1, CROSS, generator=generator, dtype=torch.float64)
    with torch.no_grad():
        assert torch.allclose(block(hidden, None, context), gathering(block, hidden, context), atol=1e-10)


@pytest.mark.parametrize(
    ("width", "depth", "layers", "heads", "views", "size"),
    [(8, 2, 1, 2, 6, (4, 4)), (16, 3, 2, 4, 3, (4, 8)), (8, 4, 1, [1, 2, 3, 4], 2, (8, 8))],
)
def test_objects_do_not_meet_and_permuting_them_permutes_the_result(
    width: int, depth: int, layers: int, heads: int, views: int, size: tuple[int, int]
) -> None:
    unet, told = network(width, depth, layers, heads, views), inputs(2, views, size)
    both = predict(unet, told)
    rows = torch.arange(len(both)).reshape(2, 2, views)
    swapped = predict(unet, {name: value[rows.flip(1).flatten()] for name, value in told.items()})
    assert torch.allclose(swapped, both[rows.flip(1).flatten()], atol=1e-10)
    for one in range(2):
        alone = predict(unet, {name: value[rows[:, one].flatten()] for name, value in told.items()})
        assert torch.allclose(alone, both[rows[:, one].flatten()], atol=1e-10)


def test_permuting_the_views_permutes_the_result() -> None:
    unet, told = network(8, 2, 1, 2), inputs(1, 6, (4, 4))
    order = torch.cat([half + torch.tensor([2, 0, 1, 5, 3, 4]) for half in (0, 6)])
    permuted = predict(unet, {name: value[order] for name, value in told.items()})
    assert torch.allclose(permuted, predict(unet, told)[order], atol=1e-10)


def test_a_new_joint_attention_changes_nothing() -> None:
    unet, told = network(8, 2, 1, 2), inputs(1, 6, (4, 4))
    for name, parameter in unet.named_parameters():
        if "attn_joint_mid.to_out" in name:
            torch.nn.init.zeros_(parameter)
    without = network(8, 2, 1, 2, cd_attention_mid=False)
    without.load_state_dict({name: tensor for name, tensor in unet.state_dict().items() if "joint" not in name}, strict=True)
    assert torch.allclose(predict(unet, told), predict(without, told), atol=1e-12)


def test_gradient_checkpointing_gives_the_same_gradients() -> None:
    unet, told = network(8, 2, 1, 2), inputs(1, 6, (4, 4))
    gradients = []
    for checkpointed in (False, True):
        unet.train().zero_grad()
        (unet.enable_gradient_checkpointing if checkpointed else unet.disable_gradient_checkpointing)()
        functional.mse_loss(unet(timestep=torch.tensor(9), **told).sample, told["sample"][:, :4]).backward()
        gradients.append({name: parameter.grad.clone() for name, parameter in unet.named_parameters()})
    assert all(torch.allclose(gradients[0][name], gradients[1][name], atol=1e-12) for name in gradients[0])


def test_half_an_object_is_refused() -> None:
    with pytest.raises(ValueError, match="a multiple of 12 rows; found 6"):
        predict(network(8, 2, 1, 2), {name: value[:6] for name, value in inputs(1, 6, (4, 4)).items()})


def test_unknown_keys_of_a_configuration_are_refused() -> None:
    with pytest.raises(ValueError, match="unknown keys colour_attention"):
        network(8, 2, 1, 2, colour_attention=True)
