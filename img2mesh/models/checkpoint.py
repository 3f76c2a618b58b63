"""Weights files: fp16 safetensors, found by name, pinned by digest, their configuration in the file's metadata."""

import hashlib
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from accelerate import init_empty_weights
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from img2mesh.errors import ArtifactError
from img2mesh.models.home import SHIPPED, advice, weights_path
from img2mesh.models.placement import place, precision

__all__ = ["SHIPPED", "digest", "load_network", "load_weights", "read_weights", "save_weights"]

_Network = TypeVar("_Network", bound=nn.Module)


def save_weights(path: Path, state: dict[str, Tensor], config: dict[str, Any], origins: dict[str, str] | None = None) -> None:
    """Write a weights file: every tensor in fp16.

    Args:
        origins: Digests of the files that the tensors were read from, if others have published them; see `home.origins`.
    """
    halves = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}
    told = {"origins": json.dumps(origins, sort_keys=True)} if origins else {}
    save_file(halves, path, metadata={"config": json.dumps(config), **told})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in the precision that suits their number, fp32 for all but very large networks, and the configuration."""
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        dtype = precision(sum(math.prod(file.get_slice(name).get_shape()) for name in names))
        return {name: file.get_tensor(name).to(dtype) for name in names}, json.loads(file.metadata()["config"])


def load_weights(name: str, sha256: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The weights of this name, if they are the ones that the digest pins.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    path = weights_path(name)
    found = digest(path)
    if found != sha256:
        raise ArtifactError(f"weights {name} at {path} have digest {found[:12]}, expected {sha256[:12]}: {advice(name)}")
    return read_weights(path)


def load_network(name: str, sha256: str, build: Callable[[dict[str, Any]], _Network], *, new: tuple[str, ...] = ()) -> _Network:
    """A network with its weights, placed for inference.

    Args:
        name: Of the weights.
        sha256: Their digest.
        build: The network of a configuration.
        new: Beginnings of names that a file may lack, all of them or none: layers that are not trained yet.

    Raises:
        ArtifactError: The file is missing, has another digest, or does not fit the network.
    """
    state, config = load_weights(name, sha256)
    untrained = bool(new) and not any(key.startswith(new) for key in state)
    if untrained:
        network = build(config)
        state |= {key: value for key, value in network.state_dict().items() if key.startswith(new)}
    else:
        # Initial values are neither computed nor stored when all of them are replaced.
        with init_empty_weights(include_buffers=False):
            network = build(config)
    try:
        network.load_state_dict(state, assign=True)
    except RuntimeError as error:
        raise ArtifactError(f"weights {name} do not fit their network: {' '.join(str(error).split())[:300]}") from error
    place(network)
    return network


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
