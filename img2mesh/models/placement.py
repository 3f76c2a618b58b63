"""Where a network runs, in which precision and how much of it at once, decided by its size and the machine."""

import contextlib
import functools
import itertools
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
from torch import nn

# Above this many parameters a network is kept in half precision where the machine computes in it.
LARGE = 300_000_000

# What the full-size networks take, GB. Weights: bytes of their parameters, fp16 the generator's and fp32 the others'. Working
# memory: by how much a run of `full_size` on a processor exceeds what was there before it; not yet confirmed on a GPU.
_GENERATOR_GB, _AUTOENCODER_GB, _DECODER_GB = 2.43, 0.33, 0.30
_STEP_GB, _GUIDED_STEP_GB, _PLAIN_GB, _DEEP_GB = 0.6, 0.95, 0.52, 2.1
# Share of a GPU's memory that remains for networks: the rest goes to its context, to kernels' workspaces and to fragments.
_USABLE = 0.85


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How the full-size networks use a machine.

    Attributes:
        large: Number format of large networks.
        decoders: Number format of the decoders' activations, which leave the range of fp16.
        latents: How many are plainly decoded at once.
        split_guidance: Whether the two halves of guidance are computed one after the other.
        offload: Whether a network that is not at work waits in the processor's memory.
        needs_gb: Memory that this takes, by count.
        fits: Whether the machine has it.
    """

    large: Literal["fp32", "bf16", "fp16"]
    decoders: Literal["fp32", "bf16"] = "fp32"
    latents: int
    split_guidance: bool
    offload: bool
    needs_gb: float
    fits: bool = True

    def __str__(self) -> str:
        """One line for a person."""
        said = [f"generator in {self.large}, decoders in {self.decoders}", f"{self.latents} latents decoded at once"]
        said += ["guidance in two halves"] if self.split_guidance else []
        said += ["idle networks wait in the processor's memory"] if self.offload else []
        return f"{', '.join(said)}; needs {self.needs_gb:.1f} GB" + ("" if self.fits else ", more than there is")


def plan_gpu(memory_gb: float, *, bf16: bool) -> Plan:
    """The fastest way to use a GPU; the most frugal one, marked as not fitting, where none fits.

    Args:
        memory_gb: Of the GPU.
        bf16: Whether it computes in bf16.
    """
    formats: tuple[Literal["fp32", "bf16"], ...] = ("fp32", "bf16") if bf16 else ("fp32",)
    plans = [
        Plan(
            large="fp16",
            decoders=decoders,
            latents=latents,
            split_guidance=split,
            offload=offload,
            needs_gb=(needs := _needs_gb(latents, half=decoders == "bf16", split=split, offload=offload)),
            fits=needs <= memory_gb * _USABLE,
        )
        for offload, decoders, latents, split in itertools.product((False, True), formats, (12, 6, 3, 1), (False, True))
    ]
    return next((found for found in plans if found.fits), min(plans, key=lambda found: found.needs_gb))


def _needs_gb(latents: int, *, half: bool, split: bool, offload: bool) -> float:
    """The largest of what the three parts take, with the weights that lie beside them."""
    share = 0.5 if half else 1.0
    parts = (
        (_GENERATOR_GB, _STEP_GB if split else _GUIDED_STEP_GB),
        (_AUTOENCODER_GB, _PLAIN_GB * latents * share),
        (_DECODER_GB, _DEEP_GB * share),
    )
    together = sum(weights for weights, _ in parts)
    return max((weights if offload else together) + working for weights, working in parts)


@functools.cache
def plan() -> Plan:
    """How this machine is used."""
    if device() == "cpu":
        large: Literal["bf16", "fp32"] = "bf16" if multiplies_bf16("cpu") else "fp32"
        return Plan(large=large, latents=1, split_guidance=False, offload=False, needs_gb=0.0)
    memory_bytes = torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory
    return plan_gpu(memory_bytes / 1e9, bf16=multiplies_bf16("cuda"))


def device() -> str:
    """The GPU where there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def precision(parameters: int) -> torch.dtype:
    """Number format for a network of this size.

    Small networks, the autoencoders among them, whose activations leave the range of fp16, compute in single precision. Large
    ones have fp16 on a GPU, in which they are published; bf16 on a processor that multiplies in it, and single precision on any
    other.
    """
    formats = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
    return torch.float32 if parameters < LARGE else formats[plan().large]


def place(network: nn.Module) -> nn.Module:
    """The network for inference, where it is to run or to wait."""
    return network.eval().requires_grad_(requires_grad=False).to("cpu" if plan().offload else device())


@contextlib.contextmanager
def at_work(network: nn.Module) -> Iterator[str]:
    """Within this context the network is where it computes, which is the context's value; afterwards it may wait elsewhere."""
    network.to(device())
    try:
        yield device()
    finally:
        if plan().offload:
            network.to("cpu")


def decoding(device_type: str) -> torch.autocast:
    """Within this context the decoders' activations have the plan's number format."""
    return torch.autocast(device_type, torch.bfloat16, enabled=plan().decoders == "bf16")


def training(device_type: str) -> torch.autocast:
    """Within this context a compact network in training has bf16 activations, unless the hardware would only imitate them."""
    return torch.autocast(device_type, torch.bfloat16, enabled=multiplies_bf16(device_type))


@functools.cache
def multiplies_bf16(device_type: str) -> bool:
    """Whether bf16 is quicker than single precision there."""
    if device_type != "cpu":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    flags = Path("/proc/cpuinfo")
    return flags.is_file() and not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags.read_text(encoding="ascii").split())
