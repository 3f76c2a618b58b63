"""Sheets of pictures to look at while a network trains."""

from collections.abc import Sequence
from pathlib import Path

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor


def write_sheet(path: Path, rows: Sequence[Sequence[Float[Tensor, "3 height width"]]]) -> None:
    """Write rows of equally sized pictures, values in [0, 1], as one PNG."""
    sheet = torch.cat([torch.cat(list(row), dim=2) for row in rows], dim=1)
    Image.fromarray((sheet.clamp(0, 1) * 255).round().to(torch.uint8).movedim(0, -1).cpu().numpy()).save(path)
