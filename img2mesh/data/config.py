"""Limits of the preparation, and which matting model this machine has. Nothing heavy is imported here."""

import os
from importlib.util import find_spec
from pathlib import Path

from pydantic import Field

from img2mesh.manifests import Model

# Pillow refuses larger pictures by itself.
PILLOW_MAX_PIXELS = 178_956_970
# rembg's general models, best first; each is one file `<name>.onnx`.
REMBG_MODELS = ("isnet-general-use", "u2net", "silueta", "u2netp")


class PrepareConfig(Model):
    """Limits and size of the prepared picture.

    Attributes:
        size_px: Side of the square result.
        max_pixels: Larger pictures are refused before they are decoded.
        max_bytes: Larger files are refused unread.
        min_side_px: Smallest longest side of the object, in pixels of the submitted picture.
    """

    size_px: int = Field(default=512, ge=32, le=4096)
    max_pixels: int = Field(default=64_000_000, gt=0, le=PILLOW_MAX_PIXELS)
    max_bytes: int = Field(default=256 * 1024 * 1024, gt=0)
    min_side_px: int = Field(default=32, ge=2)


def find_matting_model() -> Path | None:
    """The best of rembg's model files on this machine, or None when rembg, its runtime or every model is missing.

    Nothing is imported, let alone downloaded.
    """
    if find_spec("rembg") is None or find_spec("onnxruntime") is None:
        return None
    candidates = (path for name in REMBG_MODELS for path in _model_paths(name))
    return next((path for path in candidates if path.is_file()), None)


def _model_paths(name: str) -> tuple[Path, ...]:
    """Where rembg keeps a model: first as recent versions do, then the flat folder of earlier ones."""
    data_home = os.environ.get("XDG_DATA_HOME")
    old = Path(os.environ.get("U2NET_HOME") or Path(data_home or "~") / ".u2net").expanduser()
    new = Path(os.environ.get("REMBG_HOME") or (Path(data_home) / "rembg" if data_home else "~/.rembg")).expanduser()
    home = old if os.environ.get("U2NET_HOME") else new
    return home / "models" / name / f"{name}.onnx", old / f"{name}.onnx"
