"""Depth-truncated epipolar attention against its naive twin, forward and backward: `python -m benchmarks.attention`.

The twin is what the paper's formulas say: it gathers the features of all points from all sources, concatenates them, and
computes a key and a value for each point. Both run at the sizes of the full decoder's up-blocks, each in a process of its own,
so that the peak memory of one is not that of the other.
"""

import argparse
import json
import resource
import subprocess
import sys
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional

from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.epipolar import epipolar_grid, sample_offsets
from img2mesh.geometry.plucker import plucker_rays
from img2mesh.models.attention import DepthTruncatedEpipolarAttention

VIEWS = 6
# Side, channels and samples of each up-block.
LEVELS = ((32, 512, 7), (64, 512, 7), (128, 256, 7), (256, 128, 2))


def naive(layer: DepthTruncatedEpipolarAttention, features: Tensor, depth: Tensor) -> Tensor:
    """The same attention with every intermediate result of the paper's formulation."""
    size, hidden = depth.shape[-1], layer.hidden
    cameras = orbit(size_px=size)
    told = torch.cat([layer.norm(features), plucker_rays(cameras).to(features)], dim=1)
    offsets = sample_offsets(layer.samples, layer.radius).to(depth)
    gathered = []
    for view in range(VIEWS):
        grid = epipolar_grid(cameras, view, depth, offsets).flatten(2, 3).to(features)
        sources = torch.cat([told[view + 1 :], told[:view]])
        seen = functional.grid_sample(sources, grid, align_corners=False)
        gathered.append(seen.permute(3, 2, 0, 1).flatten(2))
    # [view, ray, sample, source and channel] by the first layer, whose slices stand one below the other.
    first = layer.mlp_in.weight[:, :, 0, 0].unflatten(0, (VIEWS - 1, hidden)).permute(1, 0, 2).flatten(1)
    points = layer.mlp_out(functional.silu(torch.stack(gathered) @ first.T + layer.place))
    keys, values = layer.to_kv(points).unflatten(3, (2, layer.heads, -1)).unbind(dim=3)
    asked = layer.to_q(told).flatten(2).mT.unflatten(2, (1, layer.heads, -1))
    scores = (asked * keys).sum(dim=-1) / keys.shape[-1] ** 0.5
    mixed = (scores.softmax(dim=2)[..., None] * values).sum(dim=2).flatten(2).mT
    covered = (depth > 0)[:, None].to(features)
    return features + layer.to_out(mixed.unflatten(2, (size, size))) * covered


def case(level: int, coverage: float) -> tuple[DepthTruncatedEpipolarAttention, Tensor, Tensor]:
    """A layer with random weights, features and a depth map; the rays of the uncovered share have no depth."""
    size, channels, samples = LEVELS[level]
    torch.manual_seed(0)
    layer = DepthTruncatedEpipolarAttention(channels, views=VIEWS, samples=samples, radius=0.1, heads=channels // 64, groups=32)
    for parameter in layer.parameters():
        torch.nn.init.normal_(parameter, std=channels**-0.5)
    depth = (1.6 + 0.8 * torch.rand(VIEWS, size, size)) * (torch.rand(VIEWS, size, size) < coverage)
    return layer, torch.randn(VIEWS, channels, size, size).requires_grad_(), depth


def measure(name: str, level: int, coverage: float, out: Path) -> None:
    """Run one of the two in this process; print seconds and extra memory, save the result."""
    layer, features, depth = case(level, coverage)
    gradient = torch.randn(features.shape)
    before_mib = int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 2**20
    start, start_cpu = time.perf_counter(), time.process_time()
    output = naive(layer, features, depth) if name == "naive" else layer(features, depth, orbit(size_px=depth.shape[-1]))
    output.backward(gradient)
    seconds = {"wall_s": time.perf_counter() - start, "cpu_s": time.process_time() - start_cpu}
    extra_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before_mib
    torch.save({"output": output.detach(), "gradient": features.grad}, out)
    print(json.dumps({**seconds, "extra_mib": extra_mib}))


def compare(level: int, coverage: float, folder: Path) -> None:
    """Run both and print the ratios."""
    found, results = {}, {}
    for name in ("naive", "ours"):
        out = folder / f"{name}.pt"
        command = [sys.executable, "-m", "benchmarks.attention", "--one", name, "--levels", str(level)]
        done = subprocess.run(
            [*command, "--coverage", str(coverage), "--out", str(out)], check=True, capture_output=True, text=True
        )
        found[name], results[name] = json.loads(done.stdout), torch.load(out, weights_only=True)
        print(f"  {name:<6}" + "  ".join(f"{key} {value:9.2f}" for key, value in found[name].items()), flush=True)
    apart = {key: float((results["naive"][key] - results["ours"][key]).abs().max()) for key in results["ours"]}
    ratio = {key: found["naive"][key] / found["ours"][key] for key in found["ours"]}
    print(f"  {ratio['wall_s']:.1f} x as fast ({ratio['cpu_s']:.1f} x by processor time)", end=", ")
    print(f"1/{ratio['extra_mib']:.1f} of the memory", end=", ")
    print(f"output {apart['output']:.1e} apart, gradient {apart['gradient']:.1e}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--levels", type=int, nargs="+", default=[0, 1], help="up-blocks 0 to 3; 2 needs 16 GB for the twin")
    parser.add_argument("--coverage", type=float, default=1.0, help="share of pixels with depth")
    parser.add_argument("--one", choices=("naive", "ours"), help=argparse.SUPPRESS)
    parser.add_argument("--out", type=Path, default=Path("/tmp"), help="folder for the results, a few hundred MB")
    arguments = parser.parse_args()
    if arguments.one:
        measure(arguments.one, arguments.levels[0], arguments.coverage, arguments.out)
        return
    for level in arguments.levels:
        size, channels, samples = LEVELS[level]
        gather_gib = VIEWS * (VIEWS - 1) * size * size * samples * channels * 4 / 2**30
        print(f"up-block {level}: {size} x {size}, {channels} channels, {samples} samples; naive gather {gather_gib:.2f} GiB")
        compare(level, arguments.coverage, arguments.out)


if __name__ == "__main__":
    main()
