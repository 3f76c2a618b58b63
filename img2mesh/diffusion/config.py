"""Settings of sampling, apart from the code that needs torch."""

from typing import Annotated

from pydantic import Field

from img2mesh.manifests import Model


class SamplingConfig(Model):
    """How the generator's latents are sampled.

    Attributes:
        steps: DDIM steps.
        guidance_scale: Classifier-free guidance; 1 is none and halves the work.
        eta: Share of fresh noise in each step: 0 is DDIM, 1 the ancestral sampling of DDPM.
    """

    steps: Annotated[int, Field(ge=1, le=1000)]
    guidance_scale: Annotated[float, Field(ge=1)]
    eta: Annotated[float, Field(ge=0, le=1)] = 0.0
