"""The camera and task rows that tell the network which view of which domain each latent is."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

NORMAL_TASK = (1.0, 0.0)
COLOUR_TASK = (0.0, 1.0)


def class_labels(azimuths_deg: Sequence[float]) -> Float[Tensor, "row 10"]:
    """One row a latent, normals of all views first, then colours: sines and cosines of (0, elevation, azimuth, task).

    Args:
        azimuths_deg: Of the cameras, the front being 0; the elevation is that of the front.

    Source: Long et al., Wonder3D, 2023, and its published code.
    """
    rows = [(0.0, 0.0, math.radians(a), *task) for task in (NORMAL_TASK, COLOUR_TASK) for a in azimuths_deg]
    table = torch.tensor(rows)
    return torch.cat([table.sin(), table.cos()], dim=1)
