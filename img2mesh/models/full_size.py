"""The published networks' configurations, and what they cost on this machine: time and memory with random weights.

`python -m img2mesh.models.full_size PART` builds one network at full size, runs it once and prints a line of JSON; the part
`compact` is for comparison, the shipped networks with their own weights.
"""

import argparse
import json
import resource
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode, sdpa_flop_count

from img2mesh.geometry.cameras import orbit
from img2mesh.models import autoencoder, decoder, multiview
from img2mesh.models.autoencoder import from_config
from img2mesh.models.decoder import DepthGuidedDecoder
from img2mesh.models.home import SHIPPED, listed_digests
from img2mesh.models.multiview_unet import MultiviewUNet
from img2mesh.models.placement import device, place, precision
from img2mesh.models.published import GUIDANCE

UNET: dict[str, Any] = {
    "sample_size": 32,
    "in_channels": 8,
    "out_channels": 4,
    "block_out_channels": (320, 640, 1280, 1280),
    "layers_per_block": 2,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
    "class_embed_type": "projection",
    "projection_class_embeddings_input_dim": 10,
    "num_views": 6,
}
AUTOENCODER: dict[str, Any] = {"block_out_channels": (128, 256, 512, 512), "layers_per_block": 2, "latent_channels": 4}
DECODER: dict[str, Any] = {**AUTOENCODER, "out_channels": 3, "norm_num_groups": 32, **GUIDANCE}
SIZE_PX, CELLS = 256, 32


def random_network(build: Callable[[], nn.Module]) -> nn.Module:
    """A network of small random weights in the precision that its size gets here; never made in any other."""
    with init_empty_weights(include_buffers=False):
        network = build()
    dtype = precision(sum(parameter.numel() for parameter in network.parameters()))
    state = {}
    for name, tensor in network.state_dict().items():
        spread = 0.5 / max(1, tensor[0].numel()) ** 0.5 if tensor.ndim > 1 else 0.02
        state[name] = torch.empty(tensor.shape, dtype=dtype).uniform_(-spread, spread)
    network.load_state_dict(state, assign=True)
    return place(network).to(device())


def diffusion_step(objects: int = 1) -> Callable[[], Tensor]:
    """One step of all twelve latents, without guidance, which is a second object."""
    network = random_network(lambda: MultiviewUNet.from_published_config(UNET))
    like = next(network.parameters())
    rows = 12 * objects
    shapes = {"sample": (rows, 8, CELLS, CELLS), "encoder_hidden_states": (rows, 1, 768), "class_labels": (rows, 10)}
    told = {name: torch.randn(shape).to(like) for name, shape in shapes.items()}
    return lambda: network(timestep=torch.tensor(500, device=like.device), **told).sample


def guided_step() -> Callable[[], Tensor]:
    """The same with guidance."""
    return diffusion_step(objects=2)


def plain_decode(at_once: int = 1) -> Callable[[], Tensor]:
    """Colours and normals of all views, one latent at a time."""
    network: Any = random_network(lambda: from_config(AUTOENCODER))
    latents = torch.randn(12, 4, CELLS, CELLS).to(network.device)
    return lambda: torch.cat([network.decode(one).sample.cpu() for one in latents.split(at_once)])


def guided_decode() -> Callable[[], Tensor]:
    """Colours of all views under depth, with every new layer at work."""
    network = random_network(lambda: DepthGuidedDecoder(DECODER))
    like = next(network.parameters())
    side = torch.linspace(-1, 1, SIZE_PX)
    ball = (side[:, None].square() + side.square()).expand(6, -1, -1)
    depth = torch.where(ball < 0.4, 2 - (0.4 - ball).clamp(min=0).sqrt(), 0).to(like)
    cameras = orbit(size_px=SIZE_PX).to(like.device)
    latents, front = torch.randn(6, 4, CELLS, CELLS).to(like), torch.rand(3, SIZE_PX, SIZE_PX).to(like)
    return lambda: network(latents, front, depth, cameras)


def compact() -> Callable[[], Tensor]:
    """The shipped networks, each once: one step, the plain decode and the guided decode."""
    digests, where, size = listed_digests(SHIPPED), device(), 128
    generator = multiview.load("multiview", digests["multiview.safetensors"]).to(where)
    vae = autoencoder.load("vae", digests["vae.safetensors"]).to(where)
    guided = decoder.load("decoder", digests["decoder.safetensors"]).to(where)
    latents = torch.randn(12, vae.config.latent_channels, size // 8, size // 8).to(where)
    pictures, labels = torch.rand(1, 3, size, size).to(where), torch.zeros(12, 10).to(where)
    depth, front = torch.full((6, size, size), 2.0).to(where), torch.rand(4, size, size).to(where)

    def compute() -> Tensor:
        told = generator.embed(pictures).expand(12, -1, -1), labels
        step = generator(latents.repeat(1, 2, 1, 1), torch.tensor(999).to(where), *told)
        decoded = vae.decode(latents).sample, guided(latents[6:], front, depth, orbit(size_px=size).to(where))
        return torch.cat([part.flatten() for part in (step, *decoded)])

    return compute


PARTS: dict[str, Callable[[], Callable[[], Tensor]]] = {
    "compact": compact,
    "diffusion-step": diffusion_step,
    "diffusion-step-guided": guided_step,
    "plain-decode": plain_decode,
    "guided-decode": guided_decode,
}


@torch.no_grad()
def measure(part: str) -> dict[str, Any]:
    """Seconds, peak memory and operations of one part in this process, which should do nothing else.

    Returns:
        `seconds` of one run after the weights are there, `peak_gb` of the process (of the GPU where there is one), `working_gb`
        by which one run exceeds what was there before it, `tflop` (matrix products and convolutions, two for a product and its
        sum), `device`, `dtype`, and whether all results were `finite`.
    """
    compute = PARTS[part]()
    before = _memory_bytes()
    counter = operations_counter()
    start = time.perf_counter()
    with counter:
        result = compute()
    finite = bool(result.isfinite().all())
    seconds = time.perf_counter() - start
    on_gpu = device() == "cuda"
    peak = torch.cuda.max_memory_allocated() if on_gpu else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    memory = {"peak_gb": peak / 1e9, "working_gb": (peak - before) / 1e9}
    told = {"device": device(), "dtype": str(result.dtype).removeprefix("torch."), "finite": finite}
    return {"part": part, "seconds": seconds, **memory, "tflop": counter.get_total_flops() / 1e12, **told}


def operations_counter() -> FlopCounterMode:
    """Torch's counter, which does not know the fused attention of processors by itself."""

    def attention(query: list[int], key: list[int], value: list[int], *_: Any, **__: Any) -> int:
        return int(sdpa_flop_count(query, key, value))

    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu  # noqa: SLF001 (operators have no other names)
    return FlopCounterMode(display=False, custom_mapping={fused: attention})


def _memory_bytes() -> int:
    if device() == "cuda":
        return int(torch.cuda.memory_allocated())
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=tuple(PARTS))
    print(json.dumps(measure(parser.parse_args().part)))
