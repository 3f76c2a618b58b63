"""Fit a surface to posed views: NeuS on a narrow band of voxels, coarse to fine, from a forgiving visual hull."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from img2mesh.errors import InputError, NumericalError
from img2mesh.geometry.cameras import Cameras, rays
from img2mesh.geometry.views import Views
from img2mesh.neus import losses
from img2mesh.neus.band import Band, build_band
from img2mesh.neus.carving import carved
from img2mesh.neus.config import WONDER3D_VIEW_WEIGHTS, FitConfig
from img2mesh.neus.grid import corner_points, resampled, spacing
from img2mesh.neus.holes import without_false_holes
from img2mesh.neus.hull import Hull, build_hull, with_room
from img2mesh.neus.limbs import limbs
from img2mesh.neus.losses import Targets
from img2mesh.neus.nerfstudio import fit_with_nerfstudio
from img2mesh.neus.progress import Learnt, Progress, Record
from img2mesh.neus.rendering import sample_weights
from img2mesh.neus.sampling import corners, march
from img2mesh.neus.silhouette import match_outline
from img2mesh.neus.sparse import LinearMap, from_rows, sum_of_groups
from img2mesh.neus.surface import Surface

__all__ = ["FitConfig", "fit"]

_MOMENTS = (0.9, 0.99)
_HALVINGS = 2
# A gradient as short as this has no direction.
_SHORT = 1e-4
# Corners along each side of the grid on which the hull is carved: as many as pixels tell apart, but no more than these.
_CARVED_RESOLUTION = 192


@dataclass(frozen=True, kw_only=True)
class _Rays:
    """All rays of the views at one level's image size."""

    origins: Float[Tensor, "rays 3"]
    targets: Targets


@dataclass(frozen=True, kw_only=True)
class _Batch:
    """The rays of one step and the linear maps from the band to them."""

    targets: Targets
    place: Tensor
    interpolate: LinearMap
    gather: LinearMap


@dataclass(frozen=True, kw_only=True)
class _Level:
    """What stays the same during one level."""

    config: FitConfig
    front: Float[Tensor, "z y x"]
    rays: _Rays
    views: Views
    steps: int

    @property
    def resolution(self) -> int:
        """Corners along each side of the grid."""
        return self.front.shape[0]


def fit(views: Views, config: FitConfig, *, seed: int, keep: Path | None = None) -> Surface:
    """The surface that explains the views best.

    Each level of the grid starts from the hull at its own resolution plus what the level before changed about the hull, so thin
    parts that a coarse grid cannot hold come back with the finer one. The front's mask is the truth: nothing outside it
    survives, and every pixel inside stays covered.

    Args:
        seed: Decides the order of rays and the places of samples; the same seed gives the same bytes on the same device.
        keep: File in which progress is kept until the end; a fit that finds its own goes on from there, to the same bytes.

    Raises:
        InputError: The configuration does not fit together.
        NumericalError: The masks are empty, the loss is not finite, or no surface is left.

    Source: Wang et al., NeuS, 2021; the loss terms follow Wonder3D (Long et al., 2023).
    """
    if config.method != "native":
        return fit_with_nerfstudio(_owned(views), config, seed=seed)
    if len(config.resolutions) != len(config.max_steps):
        raise InputError(f"expected one max_steps for each of {len(config.resolutions)} resolutions: {config.max_steps}")
    views = _owned(views)
    carve = config.carve and bool(views.normals.any())
    if carve:
        views = without_false_holes(views)
    generator = torch.Generator().manual_seed(seed)
    hull = build_hull(views.cameras, views.alpha, slack_px=config.hull_slack_px)
    space = _carved(views, hull) if carve else None
    rods = None if config.carve else limbs(hull, views.alpha)
    views = rods.shown_in(views) if rods else views
    record = Record.of(keep, views, config, seed)
    found = record.read(generator, views.rgb.device)
    change = found.change if found else None
    for number, (resolution, steps) in enumerate(zip(config.resolutions, config.max_steps, strict=True)):
        if found and number < found.level:
            continue
        start, front = rods.with_hull(hull, resolution) if rods else with_room(hull, resolution).on_grid(resolution)
        if space is not None:
            start = torch.maximum(start, resampled(space, resolution))
        rays_here = _rays(_shrunk(views, resolution), config)
        level = _Level(config=config, front=front, rays=rays_here, views=views, steps=steps)
        sdf = start if change is None else start + resampled(change, resolution)
        begun = found if found and number == found.level else None
        begun = begun or Progress(level=number, sdf=torch.maximum(sdf, front), change=change)
        sdf = _fit_level(level, begun, generator, record)
        change = sdf - start
    matched = match_outline(sdf, views.cameras, views.alpha[0])
    record.end()
    return Surface(sdf=matched, inv_std=config.sharpness[1] / spacing(matched.shape[0])).checked()


def _carved(views: Views, hull: Hull) -> Float[Tensor, "z y x"]:
    """The hull without what the views rule out, on a grid of its own; computed on the CPU, in seconds."""
    resolution = min(_CARVED_RESOLUTION, views.rgb.shape[-1])
    small = _shrunk(views, resolution)
    start = with_room(hull, resolution).on_grid(resolution)[0]
    here = Views(cameras=small.cameras, rgb=small.rgb.cpu(), alpha=small.alpha.cpu(), normals=small.normals.cpu())
    return carved(here, start.cpu()).to(start.device)


def _owned(views: Views) -> Views:
    """The views in float32 tensors that autograd may use, with their outlines for masks.

    A decoder's output may be marked as for inference only.
    """
    masks = views.alpha if views.outlines is None else views.outlines
    rgb, alpha, normals = (tensor.detach().float().clone() for tensor in (views.rgb, masks, views.normals))
    return Views(cameras=views.cameras, rgb=rgb, alpha=alpha.clamp(0, 1), normals=normals)


def _shrunk(views: Views, resolution: int) -> Views:
    """The views at the smallest size, halving, that still has a pixel for every voxel."""
    factor = 1
    while views.rgb.shape[-1] % (2 * factor) == 0 and views.rgb.shape[-1] // (2 * factor) >= resolution:
        factor *= 2
    if factor == 1:
        return views
    return Views(
        cameras=views.cameras.resized(views.rgb.shape[-1] // factor, views.rgb.shape[-2] // factor),
        rgb=F.avg_pool2d(views.rgb, factor),
        alpha=F.avg_pool2d(views.alpha, factor),
        normals=F.normalize(F.avg_pool2d(views.normals, factor), dim=1),
    )


def _rays(views: Views, config: FitConfig) -> _Rays:
    device, count = views.rgb.device, len(views)
    trusted = config.view_weights if len(config.view_weights) == count else (1.0,) * count
    if config.view_weights not in (trusted, WONDER3D_VIEW_WEIGHTS):
        raise InputError(f"expected {count} view weights, one a view, found {len(config.view_weights)}")
    origins, directions = (r.to(device).reshape(-1, 3) for r in rays(views.cameras))
    view = torch.arange(count, device=device).repeat_interleave(views.alpha[0].numel())
    targets = Targets(
        directions=F.normalize(directions, dim=-1),
        rgb=views.rgb.permute(0, 2, 3, 1).reshape(-1, 3),
        alpha=views.alpha.reshape(-1).clamp(0, 1),
        normals=views.normals.permute(0, 2, 3, 1).reshape(-1, 3),
        trust=torch.tensor(trusted, device=device)[view],
        mask_weight=torch.where(view == 0, config.losses.front_mask, 1.0),
        front=view == 0,
    )
    return _Rays(origins=origins, targets=targets)


def _fit_level(level: _Level, begun: Progress, generator: torch.Generator, record: Record) -> Float[Tensor, "z y x"]:
    config, now = level.config, begun
    band = None if now.around is None else build_band(now.around, config.band_voxels)
    while now.done < level.steps and now.halvings <= _HALVINGS:
        band, distances, colours = _next_band(level, now.sdf, band, now.distances, now.colours)
        steps = min(config.steps_per_band, level.steps - now.done)
        total = 0.0
        for step, batch in zip(range(now.done, now.done + steps), _batches(level, band, steps, generator), strict=False):
            loss = _loss(config, band, batch, (distances, colours), _inv_std(level, step))
            total += _checked(loss, level.resolution, step)
            _descend_all(level, loss, (distances, colours), step, 0.5**now.halvings)
        sdf = now.sdf.reshape(-1).index_copy(0, band.active, distances.values).reshape(now.sdf.shape)
        now = replace(
            now,
            done=now.done + steps,
            halvings=now.halvings + (total / steps > now.loss * (1 - config.converged_change)),
            loss=total / steps,
            sdf=torch.maximum(sdf, level.front),
            around=now.sdf,
            distances=distances,
            colours=colours,
        )
        record.write(now, generator)
    return now.sdf


def _next_band(
    level: _Level, sdf: Tensor, band: Band | None, distances: Learnt | None, colours: Learnt | None
) -> tuple[Band, Learnt, Learnt]:
    """The band about the surface as it is now, with what was learnt on the band before."""
    fresh = build_band(sdf, level.config.band_voxels)
    if not len(fresh.active) or not bool(fresh.cells.any()):
        raise NumericalError("expected a surface near which to sample, found none: it shrank to nothing or left the cube")
    values = sdf.reshape(-1)[fresh.active]
    tints = _mean_colours(level.views, corner_points(fresh.active, level.resolution))
    if band is None or distances is None or colours is None:
        return fresh, _unmoved(values), _unmoved(tints)
    moved, known = band.carried(colours.values, fresh)
    return (
        fresh,
        _carried(band, fresh, distances, values),
        _carried(band, fresh, colours, torch.where(known[:, None], moved, tints)),
    )


def _unmoved(values: Tensor) -> Learnt:
    return Learnt(values=values.clone(), first=torch.zeros_like(values), second=torch.zeros_like(values))


def _carried(band: Band, fresh: Band, old: Learnt, values: Tensor) -> Learnt:
    return Learnt(values=values.clone(), first=band.carried(old.first, fresh)[0], second=band.carried(old.second, fresh)[0])


def _mean_colours(views: Views, points: Float[Tensor, "points 3"]) -> Float[Tensor, "points 3"]:
    """Mean of the foreground colours that the views show at each point, whatever is in between: a start, not an answer."""
    total = torch.full((len(points), 4), 1e-3, device=points.device)
    for view in range(len(views)):
        picture = torch.cat([views.rgb[view] * views.alpha[view], views.alpha[view][None]])
        total += _seen(views.cameras, view, picture, points)
    return total[:, :3] / total[:, 3:]


def _seen(cameras: Cameras, view: int, picture: Tensor, points: Tensor) -> Float[Tensor, "points channels"]:
    pose = cameras.world_from_camera[view].to(points.device)
    local = (points - pose[:3, 3]) @ pose[:3, :3]
    plane = local[:, :2] / local[:, 2:].clamp(min=1e-6) if cameras.projection == "perspective" else local[:, :2]
    pixels = plane * float(cameras.focal_px[view]) + cameras.centre_px[view].to(points.device)
    size = torch.tensor([cameras.width_px, cameras.height_px], device=points.device)
    places = (pixels / size * 2 - 1)[None, :, None]
    return F.grid_sample(picture[None], places, align_corners=False)[0, :, :, 0].T


def _batches(level: _Level, band: Band, steps: int, generator: torch.Generator) -> Iterator[_Batch]:
    """All rays that meet the band, in random order, cut into steps; kept only where they come round again."""
    device = level.front.device
    count = len(level.rays.origins)
    order = torch.randperm(count, generator=generator).to(device)
    jitter = torch.rand(count, generator=generator).to(device)
    directions = level.rays.targets.directions[order]
    samples = march(band.cells, level.rays.origins[order], directions, step_voxels=1.0, jitter=jitter)
    first = samples.place == 0
    ray, number = samples.ray[first], first.cumsum(0) - 1
    if not len(ray):
        raise NumericalError("expected rays that meet the surface, found none: it left the views")
    parts = max(1, round(len(ray) / level.config.rays_per_step))
    cuts = [round(len(ray) * part / parts) for part in range(parts + 1)]
    edges = torch.searchsorted(number, torch.tensor(cuts, device=device)).tolist()

    def batch(part: int) -> _Batch:
        """One part of the rays, with the maps from the band to their samples."""
        inside, rows = slice(edges[part], edges[part + 1]), order[ray[cuts[part] : cuts[part + 1]]]
        slots, weights = corners(samples.points[inside], band.resolution)
        return _Batch(
            targets=level.rays.targets.of(rows),
            place=samples.place[inside],
            interpolate=from_rows(band.slot[slots], weights, len(band.active)),
            gather=sum_of_groups(number[inside] - cuts[part], len(rows)),
        )

    made = map(batch, range(parts))
    return made if parts >= steps else cycle(made)


def _inv_std(level: _Level, step: int) -> float:
    """Sharpness, which rises over the level: wide at first, so that the surface feels where to go."""
    soft, sharp = level.config.sharpness
    return (soft + (sharp - soft) * step / level.steps) / spacing(level.resolution)


def _checked(loss: Float[Tensor, ""], resolution: int, step: int) -> float:
    value = float(loss.detach())
    if not value < float("inf"):
        raise NumericalError(
            f"expected a finite loss, found {value} at step {step} of resolution {resolution}: try another seed"
        )
    return value


def _descend_all(level: _Level, loss: Tensor, learnt: tuple[Learnt, Learnt], step: int, rate: float) -> None:
    config = level.config
    gradients = torch.autograd.grad(loss, [item.values for item in learnt])
    rates = (config.learning_rate_voxels * spacing(level.resolution), config.learning_rate_colour)
    for item, gradient, size in zip(learnt, gradients, rates, strict=True):
        _descend(item, gradient, size * rate, step + 1, config.damping)


def _loss(config: FitConfig, band: Band, batch: _Batch, learnt: tuple[Learnt, Learnt], inv_std: float) -> Float[Tensor, ""]:
    distances, colours = (item.values.requires_grad_() for item in learnt)
    gradients = band.gradients(distances)
    lengths = torch.sqrt(gradients.square().sum(0) + _SHORT**2)
    normals = (gradients / lengths).T.contiguous()
    # Eight channels make one vector register; the last, one everywhere, adds up to the opacity.
    table = torch.cat([distances[:, None], normals, colours, torch.ones_like(distances)[:, None]], dim=-1)
    at = batch.interpolate(table)
    seen = batch.gather(at * sample_weights(at[:, 0], batch.place, inv_std)[:, None])
    normal, rgb, opacity, targets = seen[:, 1:4], seen[:, 4:7], seen[:, 7], batch.targets
    nobody = torch.zeros_like(targets.front)
    alike = torch.ones_like(targets.trust)
    bend, counts = losses.normal_loss(normal, targets)
    scale, kept = config.losses, config.kept
    return (
        scale.rgb * losses.trimmed_mean(losses.rgb_loss(rgb, opacity, targets), kept.rgb, alike, targets.front)
        + scale.normal * losses.trimmed_mean(bend, kept.normal, counts * targets.trust, nobody)
        + scale.mask
        * losses.trimmed_mean(losses.mask_loss(opacity, targets), kept.mask, targets.trust * targets.mask_weight, targets.front)
        + scale.eikonal * losses.eikonal_loss(lengths)
        + scale.sparsity * losses.sparsity_loss(distances, inv_std)
        + scale.smoothness * losses.smoothness_loss(band.bends(normals))
    )


def _descend(item: Learnt, gradient: Tensor, rate: float, step: int, damping: float) -> None:
    """One step of Adam; damped, values that hardly matter to the loss move less than the others instead of just as far.

    Source: Kingma and Ba, Adam, 2015.
    """
    slow, slower = _MOMENTS
    item.values = item.values.detach()
    item.first.lerp_(gradient, 1 - slow)
    item.second.lerp_(gradient.square(), 1 - slower)
    scale = (item.second / (1 - slower**step)).sqrt().add_(1e-10)
    scale += damping * scale.mean()
    item.values.addcdiv_(item.first, scale, value=-rate / (1 - slow**step))
