"""How weights move: Muon for matrices and convolutions, AdamW for vectors.

The same time buys several decibels more than with AdamW alone: docs/decisions/0008. A network that is only tuned further, as
the published decoder, keeps to AdamW: its layers are where AdamW has left them.
"""

from collections.abc import Collection, Iterable, Iterator
from typing import Any

import torch
from torch import Tensor, nn

# Smaller matrices (the first and the last convolution) have too few directions to be made orthogonal.
_LEAST_SIDE = 16


class Optimizer:
    """Muon and AdamW side by side over the parameters of one network, or AdamW alone where `matrix_lr` is None.

    Args:
        inherited: Parameters that come trained; their rates are multiplied by `inherited_rate`.

    Source: Jordan et al., Muon, 2024; Loshchilov and Hutter, Decoupled weight decay regularization, 2019.
    """

    def __init__(
        self,
        parameters: Iterable[nn.Parameter],
        *,
        lr: float,
        matrix_lr: float | None,
        weight_decay: float,
        inherited: Iterable[nn.Parameter] = (),
        inherited_rate: float = 1.0,
    ) -> None:
        parameters, slow = list(parameters), {id(p) for p in inherited}
        parts = _parted(parameters, slow, inherited_rate)
        self._matrices: list[tuple[nn.Parameter, nn.Parameter]] = []
        moved: list[dict[str, Any]] = []
        plain: list[dict[str, Any]] = []
        vectors: list[dict[str, Any]] = []
        for part, rate in parts:
            matrices = [p for p in part if _is_matrix(p)]
            # Biases and norms are not decayed.
            vectors.append({"params": [p for p in part if not _is_matrix(p)], "lr": lr * rate, "weight_decay": 0.0})
            if matrix_lr is None:
                plain.append({"params": matrices, "lr": lr * rate, "weight_decay": weight_decay})
                continue
            pairs = [(p, nn.Parameter(_flat(p.detach(), like=p))) for p in matrices]
            self._matrices += pairs
            moved.append({"params": [view for _, view in pairs], "lr": matrix_lr * rate, "weight_decay": weight_decay})
        betas = (0.9, 0.999) if matrix_lr is None else (0.9, 0.99)
        self._inner: list[torch.optim.Optimizer] = []
        if moved := _filled(moved):
            self._inner.append(torch.optim.Muon(moved))
        if by_adam := _filled(plain + vectors):
            self._inner.append(torch.optim.AdamW(by_adam, betas=betas, fused=True))
        self._rates = [group["lr"] for group in self._groups()]

    def unscale(self, scaler: torch.amp.GradScaler) -> None:
        """Bring gradients of a scaled loss back to their size, before they are clipped.

        Raises:
            ValueError: Muon is at work, whose gradients are not those of the parameters.
        """
        if scaler.is_enabled() and self._matrices:
            raise ValueError("a scaled loss is for AdamW alone: set matrix_lr to None")
        for inner in self._inner if scaler.is_enabled() else ():
            scaler.unscale_(inner)

    def step(self, factor: float, scaler: torch.amp.GradScaler | None = None) -> None:
        """Move every parameter along its gradient, learning rates times `factor`, and forget the gradients.

        A scaler keeps everything in its place when a gradient has left the range of its number format.
        """
        for parameter, view in self._matrices:
            view.grad = None if parameter.grad is None else _flat(parameter.grad, like=parameter)
        for group, rate in zip(self._groups(), self._rates, strict=True):
            group["lr"] = rate * factor
        for inner in self._inner:
            if scaler is None:
                inner.step()
            else:
                scaler.step(inner)
        if scaler is not None:
            scaler.update()
        for parameter in self._parameters():
            parameter.grad = None

    def tensors(self) -> dict[str, Tensor]:
        """What it remembers, by stable names, for a checkpoint."""
        return {
            f"{number}.{index}.{name}": value
            for number, inner in enumerate(self._inner)
            for index, state in inner.state_dict()["state"].items()
            for name, value in state.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Remember again what `tensors` gave."""
        for number, inner in enumerate(self._inner):
            state: dict[int, dict[str, Tensor]] = {}
            for key, value in tensors.items():
                owner, index, name = key.split(".", 2)
                if int(owner) == number:
                    state.setdefault(int(index), {})[name] = value
            inner.load_state_dict({**inner.state_dict(), "state": state})

    def _groups(self) -> Iterator[dict[str, float]]:
        return (group for inner in self._inner for group in inner.param_groups)

    def _parameters(self) -> Iterator[nn.Parameter]:
        yield from (parameter for parameter, _ in self._matrices)
        yield from (parameter for inner in self._inner for group in inner.param_groups for parameter in group["params"])


def _parted(parameters: list[nn.Parameter], slow: Collection[int], rate: float) -> list[tuple[list[nn.Parameter], float]]:
    """New parameters at the full rate, and those that come trained."""
    return [([p for p in parameters if id(p) not in slow], 1.0), ([p for p in parameters if id(p) in slow], rate)]


def _filled(groups: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [group for group in groups if group["params"]]


def _is_matrix(parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and min(parameter.shape[0], parameter[0].numel()) >= _LEAST_SIDE


def _flat(tensor: Tensor, *, like: Tensor) -> Tensor:
    """A matrix of one row an output, in the order in which `like` lies in memory, so that of `like` itself it is a view.

    Weights in channels-last order are a matrix only with the channels behind the kernel. Muon does not mind the order.
    """
    return tensor.flatten(1) if like.is_contiguous() else tensor.movedim(1, -1).flatten(1)
