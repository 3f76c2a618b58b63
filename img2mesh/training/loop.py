"""One training loop for every network: EMA, checkpoints that a kill -9 cannot hurt, a log line per report.

The randomness of a step depends on the seed and the step alone, so a run that was killed and started again has the same losses.
"""

import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from img2mesh.errors import NumericalError
from img2mesh.training.optimizer import Optimizer

StepLoss = Callable[[torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to run the steps.

    Attributes:
        lr: Of vectors (biases, norms) and the smallest matrices, by AdamW.
        matrix_lr: Of matrices and convolutions, by Muon.
        warmup_steps: Linear warm-up of the learning rates.
        cooldown: Share of the steps at the end over which the learning rates fall to zero, as a cosine.
        ema_decay: Of the averaged weights, which are the ones exported; shorter at the start.
        max_grad_norm: Gradients are scaled down to this norm.
    """

    steps: int
    lr: float = 1e-3
    matrix_lr: float = 0.01
    warmup_steps: int = 100
    cooldown: float = 0.4
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    checkpoint_every_s: float = 180.0
    report_every: int = 25
    seed: int = 0


class TaskConfig(Protocol):
    """A frozen dataclass of everything that decides a run, the loop among it."""

    @property
    def loop(self) -> LoopConfig:
        """How to run the steps."""


def train(network: nn.Module, loss: StepLoss, task: TaskConfig, out: Path, on_checkpoint: Callable[[], None]) -> None:
    """Train until `task.loop.steps`, resuming from `out/checkpoint.safetensors` when there is one.

    Args:
        loss: Named loss terms of one random batch; "loss" is minimised.
        on_checkpoint: Called, with the averaged weights in `network`, whenever a checkpoint has been written and at the end.

    Raises:
        NumericalError: The loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = task.loop
    state = _State(network, config)
    state.restore(out / "checkpoint.safetensors")
    (out / "settings.json").write_text(json.dumps(asdict(cast("Any", task)), indent=1) + "\n")
    saved = reported = time.monotonic()
    sums: dict[str, float] = {}
    while state.step < config.steps:
        terms = state.advance(loss)
        sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
        now = time.monotonic()
        if state.step % config.report_every == 0:
            means = {name: total / config.report_every for name, total in sums.items()}
            _report(out, state.step, config.steps, means, (now - reported) / config.report_every)
            reported, sums = now, {}
        if now - saved > config.checkpoint_every_s or state.step == config.steps:
            state.save(out / "checkpoint.safetensors")
            with state.averaged():
                on_checkpoint()
            saved = reported = time.monotonic()


def _report(out: Path, step: int, steps: int, means: dict[str, float], seconds: float) -> None:
    row = {"step": step, **{k: round(v, 5) for k, v in means.items()}, "s_per_step": round(seconds, 3)}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    minutes = (steps - step) * seconds / 60
    print(f"step {step}/{steps} " + " ".join(f"{k} {v:.4f}" for k, v in means.items()) + f" {minutes:.0f} min left", flush=True)


class _State:
    """Everything that a step changes."""

    def __init__(self, network: nn.Module, config: LoopConfig) -> None:
        self.network, self.config, self.step = network, config, 0
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = Optimizer(
            self.parameters.values(), lr=config.lr, matrix_lr=config.matrix_lr, weight_decay=config.weight_decay
        )

    def advance(self, loss: StepLoss) -> dict[str, float]:
        """One optimiser step.

        Raises:
            NumericalError: The loss is not finite.
        """
        step_seed = self.config.seed * 1_000_003 + self.step
        torch.manual_seed(step_seed)
        terms = loss(torch.Generator().manual_seed(step_seed))
        if not torch.isfinite(terms["loss"]):
            raise NumericalError(f"the loss at step {self.step} is {terms['loss'].item()}: lower the learning rate")
        terms["loss"].backward()
        nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        self.optimizer.step(schedule(self.step, self.config))
        self.step += 1
        # A young average forgets its random start quickly.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        return {name: value.item() for name, value in terms.items()}

    def averaged(self) -> "_Averaged":
        """A context within which the network has the averaged weights."""
        return _Averaged(self)

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all."""
        tensors = {f"model.{n}": p.detach() for n, p in self.parameters.items()} | {f"ema.{n}": e for n, e in self.ema.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        partial = path.with_suffix(".part")
        # Channels-last parameters are not contiguous, which the file format asks for.
        save_file({name: t.contiguous() for name, t in tensors.items()}, partial, metadata={"step": str(self.step)})
        os.replace(partial, path)

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one."""
        if not path.is_file():
            return
        with safe_open(path, "pt") as file:
            self.step = int(file.metadata()["step"])
            for name, p in self.parameters.items():
                p.copy_(file.get_tensor(f"model.{name}"))
                self.ema[name].copy_(file.get_tensor(f"ema.{name}"))
            names = [name for name in file.keys() if name.startswith("optimizer.")]  # noqa: SIM118 (not a mapping)
            self.optimizer.restore({name.removeprefix("optimizer."): file.get_tensor(name) for name in names})


class _Averaged:
    """Within this context the network has the averaged weights."""

    def __init__(self, state: _State) -> None:
        self.state = state

    def __enter__(self) -> None:
        self._swap()

    def __exit__(self, *_: object) -> None:
        self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, p in self.state.parameters.items():
            kept = p.detach().clone()
            p.copy_(self.state.ema[name])
            self.state.ema[name].copy_(kept)


def schedule(step: int, config: LoopConfig) -> float:
    """Factor of the learning rate at a step: warm-up, constant, cosine cool-down."""
    warm = min(1.0, (step + 1) / max(1, config.warmup_steps))
    start = config.steps * (1 - config.cooldown)
    if step < start:
        return warm
    return warm * 0.5 * (1 + math.cos(math.pi * (step - start) / max(1.0, config.steps - start)))
