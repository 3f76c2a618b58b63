"""Fits to a sphere that is known everywhere, with honest and with corrupted views."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from img2mesh.errors import InputError, NumericalError
from img2mesh.geometry.cameras import orbit
from img2mesh.geometry.views import Views
from img2mesh.neus.config import FitConfig
from img2mesh.neus.fit import fit
from img2mesh.neus.progress import Progress, Record
from img2mesh.neus.surface import Surface

SIZE = 48
RADIUS = 0.6
QUICK = FitConfig(resolutions=(24, 40), max_steps=(40, 40), rays_per_step=1024, steps_per_band=20)


def sphere_views(radius: float = RADIUS) -> Views:
    """Six views of a sphere coloured by its normals."""
    cameras = orbit(size_px=SIZE)
    axis = (torch.arange(SIZE) + 0.5) / SIZE * 2 - 1
    y, x = torch.meshgrid(axis, axis, indexing="ij")
    square = (x.square() + y.square()) / radius**2
    local = torch.stack([x / radius, y / radius, -(1 - square).clamp(min=0).sqrt()])
    # A pixel is covered as far as the circle reaches into it.
    alpha = ((radius - (x.square() + y.square()).sqrt()) * SIZE / 2 + 0.5).clamp(0, 1).expand(6, -1, -1)
    world = torch.einsum("vij,jhw->vihw", cameras.world_from_camera[:, :3, :3], local)
    normals = torch.where((square < 1) & (alpha[:, None] > 0), world, 0.0)
    rgb = alpha[:, None] * (normals * 0.5 + 0.5) + 1 - alpha[:, None]
    return Views(cameras=cameras, rgb=rgb, alpha=alpha.contiguous(), normals=normals)


def front_iou(surface: Surface, views: Views) -> float:
    depth, _ = surface.render_depth(views.cameras[:1])
    rendered, given = depth[0] > 0, views.alpha[0] >= 0.5
    return float((rendered & given).sum() / (rendered | given).sum())


def test_a_sphere_comes_back_with_its_radius() -> None:
    surface = fit(sphere_views(), QUICK, seed=0)
    volume = float((surface.sdf_grid(80) < 0).sum()) * (2 / 79) ** 3
    radius = (volume * 3 / (4 * torch.pi)) ** (1 / 3)
    assert radius == pytest.approx(RADIUS, rel=0.02)
    depth, _ = surface.render_depth(orbit((0.0, 45.0), size_px=SIZE))
    assert depth[:, SIZE // 2, SIZE // 2].tolist() == pytest.approx([2 - RADIUS] * 2, abs=0.02)


def test_the_same_seed_gives_the_same_bytes() -> None:
    short = QUICK.model_copy(update={"resolutions": (24,), "max_steps": (15,)})
    one, two, other = (fit(sphere_views(), short, seed=seed).sdf for seed in (3, 3, 4))
    assert torch.equal(one, two)
    assert not torch.equal(one, other)


@pytest.mark.parametrize("corruption", ["shifted", "another object", "empty", "blurred"])
def test_the_front_survives_a_wrong_view(corruption: str) -> None:
    views = sphere_views()
    alpha = views.alpha.clone()
    if corruption == "shifted":
        alpha[1] = alpha[1].roll(4, dims=0)
    elif corruption == "another object":
        alpha[1] = sphere_views(0.25).alpha[0].roll(10, dims=0)
    elif corruption == "empty":
        alpha[2] = 0
    else:
        alpha[1:] = torch.nn.functional.avg_pool2d(alpha[1:], 7, stride=1, padding=3)
    assert front_iou(fit(replace(views, alpha=alpha), QUICK, seed=0), views) >= 0.95


def test_outlines_take_the_place_of_the_masks() -> None:
    views, config = sphere_views(), FitConfig(resolutions=(32,), max_steps=(20,))
    narrow = sphere_views(RADIUS / 2).alpha
    narrow[0] = views.alpha[0]
    width = [
        float((fit(seen, config, seed=0).sdf < 0).any(1).any(1).sum()) for seen in (views, replace(views, outlines=narrow))
    ]
    assert width[1] < 0.75 * width[0]


def test_empty_masks_are_an_error() -> None:
    views = sphere_views()
    with pytest.raises(NumericalError, match="front"):
        fit(replace(views, alpha=torch.zeros_like(views.alpha)), QUICK, seed=0)


def test_values_that_are_not_finite_are_an_error() -> None:
    views = sphere_views()
    with pytest.raises(NumericalError, match="finite"):
        fit(replace(views, rgb=torch.full_like(views.rgb, float("nan"))), QUICK, seed=0)


def test_a_level_without_steps_is_an_error() -> None:
    with pytest.raises(InputError, match="max_steps"):
        fit(sphere_views(), QUICK.model_copy(update={"max_steps": (10,)}), seed=0)


def test_a_fit_that_was_interrupted_goes_on_to_the_same_bytes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    config = QUICK.model_copy(update={"resolutions": (20, 28), "max_steps": (20, 20), "steps_per_band": 10})
    whole = fit(sphere_views(), config, seed=3).sdf
    keep, written = tmp_path / "fit.safetensors", Record.write

    def killed_after(bands: int) -> None:
        def write(record: Record, progress: Progress, generator: torch.Generator) -> None:
            written(record, progress, generator)
            if (progress.level, progress.done) == (bands // 2, 10 * (1 + bands % 2)):
                raise KeyboardInterrupt

        monkeypatch.setattr(Record, "write", write)
        with pytest.raises(KeyboardInterrupt):
            fit(sphere_views(), config, seed=3, keep=keep)

    killed_after(0)
    killed_after(2)
    monkeypatch.setattr(Record, "write", written)
    assert torch.equal(fit(sphere_views(), config, seed=3, keep=keep).sdf, whole)
    assert not keep.exists()


def test_the_progress_of_another_fit_is_left_aside(tmp_path: Path) -> None:
    keep = tmp_path / "fit.safetensors"
    keep.write_bytes(b"no progress")
    short = QUICK.model_copy(update={"resolutions": (20,), "max_steps": (10,)})
    assert torch.equal(fit(sphere_views(), short, seed=3, keep=keep).sdf, fit(sphere_views(), short, seed=3).sdf)


def test_a_level_ends_when_the_loss_no_longer_falls(monkeypatch: pytest.MonkeyPatch) -> None:
    done: list[int] = []
    monkeypatch.setattr(Record, "write", lambda record, progress, generator: done.append(progress.done))
    config = QUICK.model_copy(
        update={"resolutions": (24,), "max_steps": (10_000,), "steps_per_band": 20, "sharpness": (4.0, 4.0)}
    )
    fit(sphere_views(), config, seed=0)
    assert done[-1] < 1000
