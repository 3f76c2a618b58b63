"""Networks: the autoencoder, the multi-view generator and the depth-guided decoder, with their weights files."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from img2mesh.models.multiview_unet import MultiviewUNet

__all__ = ["MultiviewUNet"]


def __getattr__(name: str) -> Any:
    """The public classes, imported when they are asked for: torch and diffusers take seconds."""
    if name == "MultiviewUNet":
        from img2mesh.models.multiview_unet import MultiviewUNet

        return MultiviewUNet
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
