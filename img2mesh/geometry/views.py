"""Posed views of one object as tensors."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from img2mesh.geometry.cameras import Cameras


@dataclass(frozen=True, kw_only=True)
class Views:
    """Posed pictures of one object; view 0 is the front.

    Attributes:
        rgb: sRGB in [0, 1], over a white background.
        alpha: Coverage in [0, 1].
        normals: Outward unit normals in the world (the front camera's OpenGL frame); zero in the background.
        outlines: Coverage to fit surfaces to, of the same size, where more is known of it than the pictures show.
    """

    cameras: Cameras
    rgb: Float[Tensor, "view 3 height width"]
    alpha: Float[Tensor, "view height width"]
    normals: Float[Tensor, "view 3 height width"]
    outlines: Float[Tensor, "view height width"] | None = None

    def __len__(self) -> int:
        """Number of views."""
        return self.rgb.shape[0]
