"""What can be set about a NeuS fit; imports no torch, so that presets stay light."""

from typing import Annotated, Literal

from pydantic import Field

from img2mesh.manifests import Model

Positive = Annotated[float, Field(gt=0)]
NonNegative = Annotated[float, Field(ge=0)]
Share = Annotated[float, Field(gt=0, le=1)]

# Wonder3D's trust in its own generated views, front to front_left.
WONDER3D_VIEW_WEIGHTS = (1.0, 0.8, 0.2, 1.0, 0.4, 0.7)


class LossWeights(Model):
    """Weights of the terms of the loss; the first three and their shares follow Wonder3D.

    Attributes:
        rgb: Squared colour difference over white.
        normal: One minus the cosine, where foreground faces the camera.
        mask: Binary cross-entropy of the opacity.
        eikonal: Squared difference of the gradient's length from 1, on the band.
        sparsity: Share of the band that lies close to a surface: favours little area.
        smoothness: Robust bend of the normal between neighbouring voxels at the surface.
        front_mask: Extra factor of the mask term in view 0, whose mask is the truth.
    """

    rgb: NonNegative = 0.5
    normal: NonNegative = 1.0
    mask: NonNegative = 1.0
    eikonal: NonNegative = 0.1
    sparsity: NonNegative = 0.02
    smoothness: NonNegative = 0.1
    front_mask: NonNegative = 4.0


class Kept(Model):
    """Share of the rays of a step whose losses count, lowest first; view 0's colour and mask are never dropped."""

    rgb: Share = 0.8
    normal: Share = 0.8
    mask: Share = 0.9


Method = Literal["native", "nerfstudio-neus", "nerfstudio-neus-facto"]


class Nerfstudio(Model):
    """How long nerfstudio trains, and how large its networks are.

    Attributes:
        steps: Of its optimiser.
        rays: Of one step.
        width: Hidden units of a layer; 256 as published.
    """

    steps: Annotated[int, Field(ge=1)] = 1000
    rays: Annotated[int, Field(ge=1)] = 512
    width: Annotated[int, Field(ge=16)] = 256


class FitConfig(Model):
    """How a surface is fitted to views.

    Attributes:
        method: Ours, or nerfstudio's NeuS or NeuS-facto, which take of all this only the last resolution and `nerfstudio`.
        nerfstudio: What is set about nerfstudio's.
        resolutions: Corners along each side of the grid, one entry a level, coarse to fine.
        max_steps: Most optimiser steps of each level; a level ends before that when it has converged.
        rays_per_step: Rays of one step.
        steps_per_band: Steps between two choices of band and samples.
        band_voxels: Half width of the band of active voxels about the surface, voxels.
        sharpness: `inv_std` times the voxel size, at the start and the end of each level.
        learning_rate_voxels: Largest change of a distance in one step, voxels.
        learning_rate_colour: Largest change of a colour in one step.
        damping: Of the steps of values whose gradient is small beside the mean one, such as where no view looks.
        converged_change: A level's learning rate is halved when the loss improves by less than this share from one band to
            the next, and the level ends when that happens for the third time.
        hull_slack_px: How far outside a view's mask (not the front's) the starting hull may reach, pixels.
        carve: Whether colours and normals may carve the hull further; for true views that have normals.
        view_weights: Trust in the masks and normals of each view; the default serves the six published views, any other
            number of views is trusted alike.
        losses: Weights of the loss terms.
        kept: Shares kept when outliers are dropped.
    """

    method: Method = "native"
    nerfstudio: Nerfstudio = Nerfstudio()
    resolutions: tuple[Annotated[int, Field(ge=8, le=512)], ...] = (48, 96, 128)
    max_steps: tuple[Annotated[int, Field(ge=1)], ...] = (250, 200, 150)
    rays_per_step: Annotated[int, Field(ge=1)] = 4096
    steps_per_band: Annotated[int, Field(ge=1)] = 50
    band_voxels: Annotated[float, Field(ge=2)] = 3.5
    sharpness: tuple[Positive, Positive] = (1.5, 4.0)
    learning_rate_voxels: Positive = 0.08
    learning_rate_colour: Positive = 0.02
    damping: NonNegative = 0.0
    converged_change: NonNegative = 0.01
    hull_slack_px: NonNegative = 1.0
    carve: bool = False
    view_weights: tuple[NonNegative, ...] = WONDER3D_VIEW_WEIGHTS
    losses: LossWeights = LossWeights()
    kept: Kept = Kept()
