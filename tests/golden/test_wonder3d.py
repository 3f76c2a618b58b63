"""The multi-view UNet against the published one: its parameters, and what its authors' code computes.

`wonder3d_unet_keys.json` lists names and shapes of the published checkpoint. `wonder3d_unet.safetensors` holds the weights of a
small UNet of another width (values that fp16 holds exactly), an input of two objects and the output that the authors' code
gives for them in single precision; the file's metadata says with which versions.
"""

import json
from functools import cache
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor

from img2mesh.models import MultiviewUNet
from tests.published_layout import UNET

FOLDER = Path(__file__).parent
# With the stray keys of its authors.
PUBLISHED: dict[str, Any] = {
    **UNET,
    "_diffusers_version": "0.19.3",
    "joint_attention_twice": True,
    "cross_domain_attention": True,
}


def test_names_and_shapes_are_the_published_ones() -> None:
    with torch.device("meta"):
        unet = MultiviewUNet.from_published_config(PUBLISHED)
    expected = json.loads((FOLDER / "wonder3d_unet_keys.json").read_text())
    assert len(expected) == 802
    assert {name: list(tensor.shape) for name, tensor in unet.state_dict().items()} == expected
    assert sum(parameter.numel() for parameter in unet.parameters()) == 910_785_284


@cache
def golden() -> tuple[MultiviewUNet, dict[str, Tensor]]:
    """The small network with its weights, and its inputs and output."""
    with safe_open(FOLDER / "wonder3d_unet.safetensors", "pt") as file:
        unet = MultiviewUNet.from_published_config(json.loads(file.metadata()["config"])).eval()
        tensors = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a mapping)
    unet.load_state_dict({name[5:]: tensor for name, tensor in tensors.items() if name.startswith("unet.")}, strict=True)
    return unet, {name: tensor for name, tensor in tensors.items() if not name.startswith("unet.")}


def predict(rows: Tensor) -> Tensor:
    """The prediction for these rows of the golden input, in this order."""
    unet, tensors = golden()
    with torch.no_grad():
        return unet(
            tensors["input.sample"][rows],
            tensors["input.timestep"].long(),
            encoder_hidden_states=tensors["input.encoder_hidden_states"][rows],
            class_labels=tensors["input.class_labels"][rows],
        ).sample


def difference(rows: Tensor) -> float:
    return float((predict(rows) - golden()[1]["expected.output"][rows]).abs().max())


def test_two_objects_are_as_the_authors_code_computes_them() -> None:
    assert difference(torch.arange(24)) < 1e-4


def test_each_object_alone_is_the_same() -> None:
    # Rows are [normal, colour] x object x view.
    rows = torch.arange(24).reshape(2, 2, 6)
    assert difference(rows[:, 0].flatten()) < 1e-4
    assert difference(rows[:, 1].flatten()) < 1e-4


def test_the_layout_of_guidance_gives_the_same_rows() -> None:
    # [normal_uncond, normal_cond, colour_uncond, colour_cond], each object x view: here with both branches told alike.
    normal, colour = torch.arange(24).chunk(2)
    assert difference(torch.cat([normal, normal, colour, colour])) < 1e-4
