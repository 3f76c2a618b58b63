"""Presets: each a function that returns one complete, frozen set of parameters for the six stages."""

from collections.abc import Callable
from functools import cache

from img2mesh.data.config import PrepareConfig
from img2mesh.diffusion.config import SamplingConfig
from img2mesh.errors import ArtifactError, InputError
from img2mesh.geometry.light import DEFAULT_LIGHT
from img2mesh.manifests import Model, WeightsRef
from img2mesh.mesh.config import ExportConfig
from img2mesh.models.home import LISTING, SHIPPED, listed_digests, pulled_home
from img2mesh.neus.config import FitConfig, Kept, LossWeights, Method

# Generated views contradict one another: a smooth surface is the better compromise, and the picture's outline the surest fact.
GENERATED = LossWeights(smoothness=3.0, normal=0.5, front_mask=8.0)

# The published views agree better, and their normals carry the detail: Wonder3D's own weights, but for the outline.
PUBLISHED = LossWeights(smoothness=1.0, normal=1.0, front_mask=8.0)


def _generated(*resolutions: int, steps: tuple[int, ...]) -> FitConfig:
    """How surfaces are fitted to views of the compact family: in long strides, but not where little speaks for them."""
    return FitConfig(
        resolutions=resolutions,
        max_steps=steps,
        learning_rate_voxels=0.16,
        learning_rate_colour=0.04,
        damping=0.5,
        hull_slack_px=0.0,
        losses=GENERATED,
    )


def true_views(count: int, resolution: int = 192) -> FitConfig:
    """How surfaces are fitted to views that are true: photographs or renders, not generated.

    Every mask counts as much as the front's, detail is not smoothed away, and where views contradict, nothing is.

    Args:
        count: Number of views.
        resolution: Corners along each side of the grid.
    """
    return FitConfig(
        resolutions=(resolution,),
        # What carving leaves is a voxel off at most; more steps gain little.
        max_steps=(40,),
        steps_per_band=20,
        sharpness=(4.0, 4.0),
        learning_rate_voxels=0.03,
        damping=1.0,
        hull_slack_px=0.0,
        carve=True,
        view_weights=(1.0,) * count,
        losses=LossWeights(mask=4.0, normal=3.0, front_mask=1.0, sparsity=0.0),
        # The worst rays of a mask are its border: dropping them as outliers would leave the surface a pixel too far out.
        kept=Kept(rgb=0.95, normal=0.95, mask=1.0),
    )


class Preset(Model):
    """Everything that a run needs besides its pictures, its seed and its formats.

    Attributes:
        summary: One line for a person who chooses.
        view_size_px: Side of the generated views.
    """

    name: str
    summary: str
    autoencoder: WeightsRef
    generator: WeightsRef
    decoder: WeightsRef
    view_size_px: int
    prepare: PrepareConfig
    sampling: SamplingConfig
    coarse_neus: FitConfig
    refit_neus: FitConfig
    export_mesh: ExportConfig

    def with_neus(self, method: Method) -> "Preset":
        """The same with other means of fitting surfaces."""
        update = {"method": method}
        return self.model_copy(
            update={
                "coarse_neus": self.coarse_neus.model_copy(update=update),
                "refit_neus": self.refit_neus.model_copy(update=update),
            }
        )


def compact() -> Preset:
    """The default: the shipped weights at full care, made for a machine without a GPU."""
    return Preset(
        name="compact",
        summary="shipped weights, 128 px views, about a minute an image on two cores",
        autoencoder=_shipped("vae"),
        generator=_shipped("multiview"),
        decoder=_shipped("decoder"),
        view_size_px=128,
        prepare=PrepareConfig(),
        sampling=SamplingConfig(steps=1, guidance_scale=1.0),
        coarse_neus=_generated(64, steps=(100,)),
        refit_neus=_generated(64, 96, steps=(100, 50)),
        export_mesh=ExportConfig(light=DEFAULT_LIGHT),
    )


def tiny() -> Preset:
    """The shipped weights with the least work that still shows a shape: for tests and first looks."""
    return compact().model_copy(
        update={
            "name": "tiny",
            "summary": "the same weights with few steps and a coarse mesh: a first look in seconds",
            "coarse_neus": _generated(32, steps=(60,)),
            "refit_neus": _generated(32, 64, steps=(60, 60)),
            "export_mesh": ExportConfig(light=DEFAULT_LIGHT, resolution=96, faces=4000, texture_px=256),
        }
    )


def wonder3d() -> Preset:
    """The published full-size checkpoints, sampled as their authors do by default.

    Raises:
        InputError: They have not been pulled.
    """
    return Preset(
        name="wonder3d",
        summary="published weights, 256 px views; wants a GPU",
        autoencoder=_pulled("wonder3d", "vae"),
        generator=_pulled("wonder3d", "multiview"),
        decoder=_pulled("wonder3d", "decoder"),
        view_size_px=256,
        prepare=PrepareConfig(),
        sampling=SamplingConfig(steps=50, guidance_scale=3.0, eta=1.0),
        # The decoder looks for a pixel's point within 0.1 of this depth, three voxels of the grid.
        coarse_neus=FitConfig(resolutions=(64,), max_steps=(200,), losses=PUBLISHED),
        # 192 is the grid of Wonder3D's extraction. A grid of 128 or less would look at the views with half of their pixels; the
        # rays of a step double with them, so that each pixel is still seen several times.
        refit_neus=FitConfig(resolutions=(48, 96, 192), max_steps=(250, 150, 150), rays_per_step=8192, losses=PUBLISHED),
        export_mesh=ExportConfig(texture_px=2048),
    )


PRESETS: dict[str, Callable[[], Preset]] = {"compact": compact, "tiny": tiny, "wonder3d": wonder3d}
NAMES = tuple(PRESETS)


def get(name: str) -> Preset:
    """The preset of this name.

    Raises:
        InputError: There is none, or it cannot be used here.
    """
    if name not in PRESETS:
        raise InputError(f"unknown preset {name!r}: choose one of {', '.join(NAMES)}")
    return PRESETS[name]()


def _shipped(name: str) -> WeightsRef:
    digest = _shipped_digests().get(f"{name}.safetensors")
    if digest is None:
        raise ArtifactError(f"weights {name} are not listed in {SHIPPED / LISTING}: reinstall img2mesh")
    return WeightsRef(name=name, sha256=digest)


@cache
def _shipped_digests() -> dict[str, str]:
    return listed_digests(SHIPPED)


def _pulled(family: str, part: str) -> WeightsRef:
    digest = listed_digests(pulled_home() / family).get(f"{part}.safetensors")
    if digest is None:
        raise InputError(f"preset {family} needs the published checkpoints: run `img2mesh models pull {family}`")
    return WeightsRef(name=f"{family}/{part}", sha256=digest)
