"""The camera and task rows that tell the network which view of which domain each latent is."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.wonder3d import LABEL_ANGLES_RAD

NORMAL_TASK = (1.0, 0.0)
COLOUR_TASK = (0.0, 1.0)


def class_labels(azimuths_deg: Sequence[float]) -> Float[Tensor, "row 10"]:
    """One row a latent, normals of all views first, then colours: sines and cosines of (0, elevation, azimuth, task).

    Args:
        azimuths_deg: Of the cameras, the front being 0; the elevation is that of the front.

    Source: Long et al., Wonder3D, 2023, and its published code.
    """
    return _labels([(0.0, math.radians(azimuth)) for azimuth in azimuths_deg])


def published_labels() -> Float[Tensor, "row 10"]:
    """The rows that the published checkpoint was trained with, see `geometry.wonder3d`.

    The authors' pipeline rounds the angles to half precision, which changes the rows by less than 1e-3.
    """
    return _labels(list(LABEL_ANGLES_RAD.values()))


def _labels(angles_rad: Sequence[tuple[float, float]]) -> Float[Tensor, "row 10"]:
    rows = [(0.0, *angles, *task) for task in (NORMAL_TASK, COLOUR_TASK) for angles in angles_rad]
    table = torch.tensor(rows)
    return torch.cat([table.sin(), table.cos()], dim=1)
