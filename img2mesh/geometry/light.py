"""The one light in which objects are rendered, and whose shade generated views have learnt."""

import numpy as np
import numpy.typing as npt
from pydantic import Field

from img2mesh.manifests import Model


class Light(Model):
    """One distant white light, fixed in the world: colour = albedo * (ambient + diffuse * max(0, n . direction)).

    Attributes:
        direction: From the surface towards the light, world frame, any length but zero.
    """

    ambient: float = Field(default=0.6, ge=0)
    diffuse: float = Field(default=0.4, ge=0)
    direction: tuple[float, float, float] = (-0.35, 0.55, 0.75)

    def strength(self, normals: npt.NDArray[np.floating]) -> npt.NDArray[np.float32]:
        """By which the albedo of surfaces with these unit normals [..., 3] is multiplied."""
        towards = np.asarray(self.direction, dtype=np.float32)
        cosine = np.maximum(normals @ (towards / np.linalg.norm(towards)), 0)
        strength: npt.NDArray[np.float32] = (self.ambient + self.diffuse * cosine).astype(np.float32)
        return strength


DEFAULT_LIGHT = Light()
# No shading: the base colours themselves.
ALBEDO = Light(ambient=1.0, diffuse=0.0)
