"""Seconds of each step of the mesh export, and its peak memory, on an analytic bumpy ball: `python -m benchmarks.export`."""

import argparse
import resource
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch

from img2mesh.geometry.cameras import VIEW_NAMES, orbit
from img2mesh.geometry.views import Views
from img2mesh.mesh.clean import clean
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.export import FORMATS, png, write_files
from img2mesh.mesh.extract import extract
from img2mesh.mesh.preview import sheet
from img2mesh.mesh.render import render
from img2mesh.mesh.texture import bake
from img2mesh.mesh.uv import unwrap

VIEW_PX = 128
PICTURE_PX = 512


@contextmanager
def timed(name: str) -> Iterator[None]:
    start = time.perf_counter()
    yield
    print(f"{name:<10} {time.perf_counter() - start:6.2f} s", flush=True)


def bumpy_ball(resolution: int) -> np.ndarray:
    line = np.linspace(-1, 1, resolution)
    z, y, x = np.meshgrid(line, line, line, indexing="ij")
    return np.sqrt(x**2 + y**2 + z**2) - 0.65 + 0.06 * np.sin(11 * x) * np.sin(9 * y) * np.sin(10 * z)


def striped(size_px: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Colour [3, height, width] and coverage of a striped disc."""
    line = torch.linspace(-1, 1, size_px)
    alpha = ((line[:, None] ** 2 + line[None] ** 2).sqrt() < 0.68).float()
    stripes = torch.sin(line * 20)[None, :, None] * torch.tensor([0.4, 0.2, 0.1])[:, None, None] + 0.5
    return stripes.expand(3, size_px, size_px) * alpha + 1 - alpha, alpha


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--resolution", type=int, default=128, help="corners along each side of the grid")
    parser.add_argument("--faces", type=int, default=20_000)
    parser.add_argument("--texture-px", type=int, default=1024)
    arguments = parser.parse_args()
    config = ExportConfig(faces=arguments.faces, texture_px=arguments.texture_px)
    rgb, alpha = striped(VIEW_PX)
    normals = torch.zeros(6, 3, VIEW_PX, VIEW_PX)
    views = Views(cameras=orbit(size_px=VIEW_PX), rgb=rgb.expand(6, -1, -1, -1), alpha=alpha.expand(6, -1, -1), normals=normals)
    front, cover = striped(PICTURE_PX)
    picture = (torch.cat([front, cover[None]]).movedim(0, -1) * 255).round().to(torch.uint8).numpy()
    start = time.perf_counter()
    with timed("extract"):
        surface = extract(bumpy_ball(arguments.resolution))
    with timed("clean"):
        cleaned = clean(surface, faces=config.faces, speck_share=config.speck_share)
    with timed("unwrap"):
        unwrapped = unwrap(cleaned.mesh, config.texture_px)
    with timed("bake"):
        textured = bake(unwrapped, views, picture, config)
    with timed("files"):
        files = write_files(textured, FORMATS, {"tool": "benchmark"})
    with timed("preview"):
        files["preview.png"] = png(sheet(textured, views, picture, VIEW_NAMES, config.preview_px))
    with timed("score"):
        render(textured, orbit((0.0,), size_px=PICTURE_PX))
    peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"{'all':<10} {time.perf_counter() - start:6.2f} s, peak {peak_mib:.0f} MiB")
    size_bytes = sum(map(len, files.values()))
    print(f"{len(surface.faces)} -> {len(cleaned.mesh.faces)} faces by {cleaned.reduced_by}, {size_bytes} bytes")


if __name__ == "__main__":
    main()
