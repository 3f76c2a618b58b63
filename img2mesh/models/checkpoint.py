"""Weights files: fp16 safetensors, found by name, pinned by digest, their configuration in the file's metadata."""

import functools
import hashlib
import json
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from img2mesh.errors import ArtifactError

SHIPPED = Path(__file__).parents[1] / "weights"


def save_weights(path: Path, state: dict[str, Tensor], config: dict[str, Any]) -> None:
    """Write a weights file: every tensor in fp16."""
    halves = {name: tensor.detach().to(torch.float16).contiguous() for name, tensor in state.items()}
    save_file(halves, path, metadata={"config": json.dumps(config)})


def read_weights(path: Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors in fp32 and the configuration of a weights file."""
    with safe_open(path, "pt") as file:
        config = json.loads(file.metadata()["config"])
        return {name: file.get_tensor(name).float() for name in file.keys()}, config  # noqa: SIM118 (not a mapping)


@functools.cache
def load_weights(name: str, sha256: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The shipped weights of this name, if they are the ones that the digest pins.

    Raises:
        ArtifactError: The file is missing or has another digest.
    """
    path = SHIPPED / f"{name}.safetensors"
    if not path.is_file():
        raise ArtifactError(f"weights {name} are missing at {path}: reinstall img2mesh")
    found = digest(path)
    if found != sha256:
        raise ArtifactError(f"weights {name} at {path} have digest {found[:12]}, expected {sha256[:12]}: reinstall img2mesh")
    return read_weights(path)


def digest(path: Path) -> str:
    """SHA-256 of a file, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
