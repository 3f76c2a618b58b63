"""Where a network runs and in which precision, decided by its size and the machine."""

import functools
from pathlib import Path

import torch
from torch import nn

# Above this many parameters a network is kept in half precision where the machine computes in it.
LARGE = 300_000_000


def device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(parameters: int) -> torch.dtype:
    """Number format for a network of this size.

    Small networks, the autoencoders among them, whose activations leave the range of fp16, compute in single precision. Large
    ones have fp16 on a GPU, in which they are published; bf16 on a processor that multiplies in it, and single precision on any
    other.
    """
    if parameters < LARGE:
        return torch.float32
    if device() == "cuda":
        return torch.float16
    return torch.bfloat16 if _multiplies_bf16() else torch.float32


def place(network: nn.Module) -> nn.Module:
    """The network for inference, where it is to run."""
    return network.eval().requires_grad_(requires_grad=False).to(device())


@functools.cache
def _multiplies_bf16() -> bool:
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(encoding="ascii").split())
