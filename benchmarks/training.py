"""Steps of the full-size decoder's training with random weights: `python -m benchmarks.training`.

Reports seconds a step, the process's peak memory until its end, and the operations of a step (matrix products and
convolutions, forward, backward and computed again), from which docs/training-full-size.md has its times.
"""

import argparse
import json
import tempfile
import threading
import time
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch.utils.flop_counter import FlopCounterMode

from img2mesh.models import full_size
from img2mesh.models.autoencoder import from_config
from img2mesh.models.checkpoint import save_weights
from img2mesh.models.decoder import DepthGuidedDecoder
from img2mesh.models.placement import device
from img2mesh.training.decoder import full_size as full_size_config
from img2mesh.training.decoder import train_decoder

SHARED = {"in_channels": 3, "out_channels": 3, "norm_num_groups": 32, "scaling_factor": 0.18215}


class Watch(threading.Thread):
    """Prints the process's largest memory and operations until the first line of the log, with that line."""

    def __init__(self, log: Path, counter: FlopCounterMode) -> None:
        super().__init__(daemon=True)
        self.log, self.counter = log, counter

    def run(self) -> None:
        """Look ten times a second."""
        peak_kb = 0
        while not self.log.exists() or not self.log.read_text().endswith("\n"):
            peak_kb = max(peak_kb, int(Path("/proc/self/status").read_text().split("VmRSS:")[1].split()[0]))
            time.sleep(0.1)
        tflop = self.counter.get_total_flops() / 1e12
        print(json.dumps({**json.loads(self.log.read_text()), "peak_gb": peak_kb / 1e6, "tflop": tflop}), flush=True)


def write_views(folder: Path) -> None:
    """Two objects: random pictures of a ball."""
    size = full_size.SIZE_PX
    side = torch.linspace(-1, 1, size)
    ball = (side[:, None].square() + side.square()).expand(1, 6, -1, -1)
    depth = torch.where(ball < 0.4, 2 - (0.4 - ball).clamp(min=0).sqrt(), 0)
    rgba = torch.randint(256, (1, 6, size, size, 4), dtype=torch.uint8)
    rgba[..., 3] = (depth > 0) * 255
    tensors = {"rgba": rgba, "normal": rgba[..., :3].contiguous(), "depth": depth.half(), "front_azimuth_deg": torch.zeros(1)}
    rows = [{"id": name, "split": name, "source": "folder", "file": f"{name}.safetensors"} for name in ("train", "val")]
    for row in rows:
        save_file(tensors, folder / row["file"])
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))


def write_weights(folder: Path) -> None:
    """Random weights of the autoencoder and of the decoder with all its layers."""
    vae = full_size.random_network(lambda: from_config(full_size.AUTOENCODER))
    save_weights(folder / "vae.safetensors", vae.state_dict(), {**full_size.AUTOENCODER, **SHARED})
    decoder = full_size.random_network(lambda: DepthGuidedDecoder(full_size.DECODER))
    save_weights(folder / "decoder.safetensors", decoder.state_dict(), full_size.DECODER)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--precision", choices=("fp32", "bf16", "fp16"), default="bf16")
    parser.add_argument("--draws", type=int, default=1, help="objects a step")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_views(folder)
        write_weights(folder)
        counter, out = full_size.operations_counter(), folder / "run"
        config = full_size_config(steps=1, draws=arguments.draws, precision=arguments.precision, report_every=1)
        Watch(out / "log.jsonl", counter).start()
        with counter:
            train_decoder(folder, folder / "vae.safetensors", out, config, device=device(), base=folder / "decoder.safetensors")


if __name__ == "__main__":
    main()
