"""Solids to hold a reconstruction against, and the way from a signed distance to the mesh that is scored."""

from collections.abc import Callable

import numpy as np
import torch
from jaxtyping import Float
from scipy.ndimage import distance_transform_edt
from torch import Tensor
from torch.nn import functional

from img2mesh.data.objects import TexturedObject
from img2mesh.geometry.cameras import Cameras
from img2mesh.mesh.clean import Silhouette, drop_specks
from img2mesh.mesh.config import ExportConfig
from img2mesh.mesh.extract import extract
from img2mesh.mesh.topology import weld
from img2mesh.metrics.visible import Triangles
from img2mesh.neus.grid import corner_points
from img2mesh.neus.hull import build_hull
from img2mesh.neus.silhouette import refined

Alpha = Float[Tensor, "height width"]
Field = Float[Tensor, "z y x"]


def copied_hull(alpha: Alpha, cameras: Cameras, resolution: int) -> Field:
    """The visual hull of six views that all look like the front."""
    masks = functional.adaptive_avg_pool2d(alpha[None], cameras.height_px).expand(len(cameras), -1, -1)
    return build_hull(cameras, masks, slack_px=0.0).on_grid(resolution)[0]


def inflated(alpha: Alpha, cameras: Cameras, resolution: int) -> Field:
    """The front's silhouette blown up: as deep everywhere as a ball that touches the outline there would be.

    At distance d from the outline, of at most R anywhere, half the depth is sqrt(d (2 R - d)): a disc becomes a ball.
    """
    del cameras
    inside = (alpha >= 0.5).numpy()
    inner = torch.from_numpy(distance_transform_edt(np.pad(inside, 1))[1:-1, 1:-1]).float()
    outer = torch.from_numpy(distance_transform_edt(~inside)).float()
    unit = 2 / alpha.shape[-1]
    signed = torch.where(torch.from_numpy(inside), (inner - 0.5) * unit, (0.5 - outer) * unit)
    deepest = float(signed.max())
    half = (signed.clamp(min=0) * (2 * deepest - signed.clamp(min=0))).sqrt()
    points = corner_points(torch.arange(resolution**3), resolution)
    # Rows of a picture run downwards, y upwards.
    places = (points[:, :2] * torch.tensor([1.0, -1.0]))[None, :, None]
    looked_up = functional.grid_sample(torch.stack([signed, half])[None], places, align_corners=False, padding_mode="border")
    outline, depth = looked_up[0, :, :, 0]
    return torch.maximum(-outline, points[:, 2].abs() - depth).reshape((resolution,) * 3)


BASELINES: dict[str, Callable[[Alpha, Cameras, int], Field]] = {"copied front's hull": copied_hull, "inflated front": inflated}


def meshed(sdf: Field, alpha: Alpha, cameras: Cameras, config: ExportConfig) -> Triangles:
    """The mesh of a field as the export makes it, before decimation: on its grid, cut to the picture's outline, without specks.

    Args:
        alpha: Coverage of the input picture in [0, 1], of any size.
        cameras: The front first.

    Raises:
        NumericalError: There is no surface.
    """
    surface = extract(refined(sdf, cameras, alpha, config.resolution).numpy())
    shown = Silhouette(camera=cameras[[0]], alpha=(alpha * 255).round().to(torch.uint8).numpy())
    kept = drop_specks(weld(surface), config.speck_share, shown)
    return Triangles(vertices=np.asarray(kept.vertices, np.float64), faces=np.asarray(kept.faces, np.int64))


def triangles_of(obj: TexturedObject) -> Triangles:
    """An object's bare surface."""
    return Triangles(vertices=obj.vertices.astype(np.float64), faces=obj.faces.astype(np.int64))
