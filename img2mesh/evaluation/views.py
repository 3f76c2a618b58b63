"""Six views of an object against the rendered ones, and what a method must beat."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from img2mesh.data.dataset import RenderedObjects, Sample
from img2mesh.evaluation.meshes import inflated
from img2mesh.geometry.cameras import orbit, pixel_centres, unproject
from img2mesh.metrics.image import psnr, silhouette_iou, ssim
from img2mesh.metrics.lpips import Lpips
from img2mesh.models.regressor import ViewRegressor
from img2mesh.neus.surface import Surface

# Fronts are compared at this size: a nearest neighbour by every pixel would be one by noise.
THUMBNAIL_PX = 32
# The mean picture of this many objects changes no more.
MEAN_OF = 500
INFLATED_GRID = 96


@dataclass(frozen=True, kw_only=True)
class Pictures:
    """Views of one object from one method, the front first.

    Attributes:
        rgb: sRGB in [0, 1], over white.
        alpha: Coverage in [0, 1]; None where the method says nothing of it.
    """

    rgb: Float[Tensor, "view 3 height width"]
    alpha: Float[Tensor, "view height width"] | None


def picture_scores(pictures: Pictures, truth: Sample, lpips: Lpips | None) -> dict[str, float]:
    """Means over the views that are not the front: PSNR and SSIM of the whole image on white, LPIPS, silhouette IoU.

    Columns are left out where there is no LPIPS, or no coverage.

    Source: the protocol of SyncDreamer, which Wonder3D and the paper of the depth-guided decoder follow.
    """
    ours, theirs = pictures.rgb[1:].clamp(0, 1), truth.rgb[1:]
    pairs = list(zip(ours, theirs, strict=True))
    scores = {"psnr_db": _mean([psnr(a, b) for a, b in pairs]), "ssim": _mean([ssim(a, b) for a, b in pairs])}
    if lpips is not None:
        scores["lpips"] = float(lpips(ours, theirs).mean())
    if pictures.alpha is not None:
        masks = zip(pictures.alpha[1:], truth.alpha[1:], strict=True)
        scores["silhouette_iou"] = _mean([silhouette_iou(a, b) for a, b in masks])
    return scores


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def copied_front(sample: Sample) -> Pictures:
    """The front, shown six times: strong, since many objects look alike from all sides."""
    return Pictures(rgb=sample.rgb[:1].expand_as(sample.rgb), alpha=sample.alpha[:1].expand_as(sample.alpha))


def inflated_front(sample: Sample) -> Pictures:
    """The front's silhouette blown up, see `meshes.inflated`, painted from the front right through, and seen from around."""
    size = sample.rgb.shape[-1]
    cameras = orbit(size_px=size)
    depth, _ = Surface(sdf=inflated(sample.alpha[0], cameras, INFLATED_GRID), inv_std=1.0).render_depth(cameras)
    points = unproject(cameras, pixel_centres(size, size).expand(len(cameras), -1, -1, -1), depth)
    # Rows of a picture run downwards, y upwards.
    places = points[..., :2] * torch.tensor([1.0, -1.0])
    painted = functional.grid_sample(sample.rgb[:1].expand(len(cameras), -1, -1, -1), places, align_corners=False)
    covered = (depth > 0)[:, None]
    return Pictures(rgb=torch.where(covered, painted, torch.ones(())), alpha=covered[:, 0].float())


def first_guess(sample: Sample, regressor: ViewRegressor) -> Pictures:
    """What the regressor alone says of the views, enlarged."""
    front = torch.cat([sample.rgb[:1], sample.alpha[:1, None]], dim=1)
    guess = regressor.views(front.to(regressor.leave.weight))[0].float().cpu()
    enlarged = functional.interpolate(guess[:, :4], size=sample.rgb.shape[-2:], mode="bicubic", align_corners=False)
    return Pictures(rgb=enlarged[:, :3].clamp(0, 1), alpha=enlarged[:, 3].clamp(0, 1))


class TrainingObjects:
    """What can be said about an object from the training set alone."""

    def __init__(self, data: RenderedObjects) -> None:
        """Look at the front of every training sample."""
        self.data = data
        self.fronts = torch.stack([_thumbnail(data.load_front(item)) for item in range(len(data))])
        some = range(0, len(data), max(1, len(data) // MEAN_OF))
        samples = (data.load(item) for item in some)
        self.total = sum((torch.cat([s.rgb, s.alpha[:, None]], dim=1) for s in samples), torch.zeros(())) / len(some)

    def nearest(self, sample: Sample) -> Pictures:
        """The views of the training sample whose front is most like this one, by squared difference."""
        front = torch.cat([sample.rgb[0], sample.alpha[:1]])
        item = int((self.fronts - _thumbnail(front)).square().sum(dim=(1, 2, 3)).argmin())
        found = self.data.load(item)
        return Pictures(rgb=found.rgb, alpha=found.alpha)

    def mean(self) -> Pictures:
        """The mean picture of each view."""
        return Pictures(rgb=self.total[:, :3], alpha=self.total[:, 3])


def _thumbnail(front: Float[Tensor, "4 height width"]) -> Float[Tensor, "4 small small"]:
    return functional.adaptive_avg_pool2d(front, THUMBNAIL_PX)
