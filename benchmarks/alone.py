"""One surface fit in a process that does nothing else: `python -m benchmarks.alone VIEWS FIELD`.

Reads views, writes the field, and prints seconds and the process's peak memory as JSON: what rendering and scoring use in
other benchmarks does not count here.
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from img2mesh.geometry.cameras import Cameras
from img2mesh.geometry.views import Views
from img2mesh.neus.fit import fit
from img2mesh.presets import true_views


def fitted_alone(views: Views, resolution: int, threads: int) -> tuple[torch.Tensor, dict[str, float]]:
    """The fitted field on a grid, and what fitting it took, in a process of its own."""
    with tempfile.TemporaryDirectory() as name:
        file, field = Path(name) / "views.safetensors", Path(name) / "field.safetensors"
        cameras = views.cameras
        parts = {"pose": cameras.world_from_camera, "focal": cameras.focal_px, "centre": cameras.centre_px}
        parts |= {"rgb": views.rgb, "alpha": views.alpha, "normals": views.normals}
        save_file({k: v.contiguous() for k, v in parts.items()}, file, {"projection": cameras.projection})
        command = [sys.executable, "-m", "benchmarks.alone", str(file), str(field), "--threads", str(threads)]
        done = subprocess.run([*command, "--resolution", str(resolution)], check=True, stdout=subprocess.PIPE, text=True)
        spent: dict[str, float] = json.loads(done.stdout)
        return load_file(field)["sdf"], spent


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("views", type=Path, nargs="?")
    parser.add_argument("field", type=Path, nargs="?")
    parser.add_argument("--resolution", type=int, default=192, help="of the grid that is written")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    arguments = parser.parse_args()
    if arguments.views is None:
        print("nothing to fit: give a file of views")
        return
    torch.set_num_threads(arguments.threads)
    with safe_open(arguments.views, "pt") as stored:
        projection = stored.metadata()["projection"]
    parts = load_file(arguments.views)
    height_px, width_px = parts["alpha"].shape[1:]
    cameras = Cameras(
        projection=projection,
        world_from_camera=parts["pose"],
        focal_px=parts["focal"],
        centre_px=parts["centre"],
        width_px=width_px,
        height_px=height_px,
    )
    views = Views(cameras=cameras, rgb=parts["rgb"], alpha=parts["alpha"], normals=parts["normals"])
    start, start_cpu = time.perf_counter(), time.process_time()
    sdf = fit(views, true_views(len(views)), seed=0).sdf_grid(arguments.resolution)
    spent = {"seconds": time.perf_counter() - start, "cpu_s": time.process_time() - start_cpu}
    save_file({"sdf": sdf.contiguous()}, arguments.field)
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(json.dumps({**spent, "peak_mib": peak_mib}))


if __name__ == "__main__":
    main()
