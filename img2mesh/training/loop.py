"""One training loop for every network: EMA, checkpoints that a kill -9 cannot hurt, a log line per report.

A step takes the mean of one or more draws. The randomness of a draw depends on the seed, the step and its number alone: a run
that was killed and started again has the same losses, and several processes that share the draws out have those of one.
"""

import contextlib
import json
import math
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, cast

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor, nn

from img2mesh.errors import InputError, NumericalError
from img2mesh.training.optimizer import Optimizer
from img2mesh.training.team import Team

Precision = Literal["fp32", "bf16", "fp16"]
StepLoss = Callable[[torch.Generator], dict[str, Tensor]]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How to run the steps.

    Attributes:
        lr: Of vectors (biases, norms) and the smallest matrices, by AdamW.
        matrix_lr: Of matrices and convolutions, by Muon; None: AdamW moves them too, at `lr`.
        warmup_steps: Linear warm-up of the learning rates.
        cooldown: Share of the steps at the end over which the learning rates fall to zero, as a cosine.
        ema_decay: Of the averaged weights, which are the ones exported; shorter at the start.
        max_grad_norm: Gradients are scaled down to this norm.
        draws: Losses whose mean a step minimises, shared out among the processes.
        inherited_rate: Factor of the learning rates of layers that come trained.
        precision: Number format of activations, for tasks that leave the choice open. fp16 scales the loss, for AdamW alone.
    """

    steps: int
    lr: float = 1e-3
    matrix_lr: float | None = 0.01
    warmup_steps: int = 100
    cooldown: float = 0.4
    ema_decay: float = 0.999
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    checkpoint_every_s: float = 180.0
    report_every: int = 25
    seed: int = 0
    draws: int = 1
    inherited_rate: float = 1.0
    precision: Precision = "bf16"


class TaskConfig(Protocol):
    """A frozen dataclass of everything that decides a run, the loop among it."""

    @property
    def loop(self) -> LoopConfig:
        """How to run the steps."""


def train(
    network: nn.Module,
    loss: StepLoss,
    task: TaskConfig,
    out: Path,
    on_checkpoint: Callable[[], None],
    inherited: Callable[[str], bool] = lambda _: False,
) -> None:
    """Train until `task.loop.steps`, resuming from `out/checkpoint.safetensors` when there is one.

    Args:
        loss: Named loss terms of one random batch; "loss" is minimised.
        on_checkpoint: Called, with the averaged weights in `network`, whenever a checkpoint has been written and at the end; by
            the first process alone.
        inherited: Whether the layer of a parameter of this name comes trained.

    Raises:
        InputError: The draws of a step cannot be shared out evenly among the processes.
        NumericalError: The loss is not finite.
    """
    out.mkdir(parents=True, exist_ok=True)
    config = task.loop
    team = Team(cpu=next(network.parameters()).device.type == "cpu")
    if config.draws % team.size:
        raise InputError(f"{config.draws} objects a step cannot be shared out among {team.size} processes: use a multiple")
    state = _State(network, config, team, inherited)
    state.restore(out / "checkpoint.safetensors")
    if team.leads:
        (out / "settings.json").write_text(json.dumps(asdict(cast("Any", task)), indent=1) + "\n")
    saved = reported = time.monotonic()
    sums: dict[str, float] = {}
    summed = 0  # fewer than `report_every` after a resumption
    while state.step < config.steps:
        terms = state.advance(loss)
        sums = {name: sums.get(name, 0.0) + value for name, value in terms.items()}
        summed += 1
        now = time.monotonic()
        if state.step % config.report_every == 0:
            means = {name: total / summed for name, total in sums.items()}
            if team.leads:
                _report(out, state.step, config.steps, means, (now - reported) / summed)
            reported, sums, summed = now, {}, 0
        if team.as_the_leader_says(now - saved > config.checkpoint_every_s) or state.step == config.steps:
            state.save(out / "checkpoint.safetensors")
            if team.leads:
                with state.averaged():
                    on_checkpoint()
            team.wait()
            saved = time.monotonic()


def _report(out: Path, step: int, steps: int, means: dict[str, float], seconds: float) -> None:
    row = {"step": step, **{k: round(v, 5) for k, v in means.items()}, "s_per_step": round(seconds, 3)}
    with (out / "log.jsonl").open("a") as log:
        log.write(json.dumps(row) + "\n")
    minutes = (steps - step) * seconds / 60
    print(f"step {step}/{steps} " + " ".join(f"{k} {v:.4f}" for k, v in means.items()) + f" {minutes:.0f} min left", flush=True)


class _State:
    """Everything that a step changes."""

    def __init__(self, network: nn.Module, config: LoopConfig, team: Team, inherited: Callable[[str], bool]) -> None:
        self.network, self.config, self.team, self.step = network, config, team, 0
        self.parameters = {name: p for name, p in network.named_parameters() if p.requires_grad}
        self.ema = {name: p.detach().clone() for name, p in self.parameters.items()}
        self.optimizer = Optimizer(
            self.parameters.values(),
            lr=config.lr,
            matrix_lr=config.matrix_lr,
            weight_decay=config.weight_decay,
            inherited=(parameter for name, parameter in self.parameters.items() if inherited(name)),
            inherited_rate=config.inherited_rate,
        )
        place = next(iter(self.parameters.values())).device.type
        self.scaler = torch.amp.GradScaler(place, enabled=config.precision == "fp16")

    def advance(self, loss: StepLoss) -> dict[str, float]:
        """One optimiser step.

        Raises:
            NumericalError: The loss is not finite.
        """
        terms = self._differentiate(loss)
        if not torch.isfinite(terms["loss"]):
            raise NumericalError(f"the loss at step {self.step} is {terms['loss'].item()}: lower the learning rate")
        self.optimizer.unscale(self.scaler)
        nn.utils.clip_grad_norm_(self.parameters.values(), self.config.max_grad_norm)
        self.optimizer.step(schedule(self.step, self.config), self.scaler)
        self.step += 1
        # A young average forgets its random start quickly.
        decay = min(self.config.ema_decay, (1 + self.step) / (10 + self.step))
        torch._foreach_lerp_(list(self.ema.values()), [p.detach() for p in self.parameters.values()], 1 - decay)
        return {name: value.item() for name, value in terms.items()}

    def _differentiate(self, loss: StepLoss) -> dict[str, Tensor]:
        """Leave the gradients of the mean over all draws of this step; return the means of the terms."""
        count, means = self.config.draws, dict[str, Tensor]()
        for draw in range(self.team.rank, count, self.team.size):
            seed = self.config.seed * 1_000_003 + self.step + draw * 1_000_000_007
            torch.manual_seed(seed)
            terms = {name: value / count for name, value in loss(torch.Generator().manual_seed(seed)).items()}
            self.scaler.scale(terms["loss"]).backward()
            means = {name: means.get(name, 0) + value.detach() for name, value in terms.items()}
        if self.team.size > 1:
            for parameter in self.parameters.values():
                parameter.grad = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        self.team.add_up([parameter.grad for parameter in self.parameters.values() if parameter.grad is not None])
        self.team.add_up(list(means.values()))
        return means

    def averaged(self) -> "_Averaged":
        """A context within which the network has the averaged weights."""
        return _Averaged(self)

    def save(self, path: Path) -> None:
        """Write the checkpoint, whole or not at all: each process its share, the first last, whose file names the others."""
        tensors = {f"model.{n}": p.detach() for n, p in self.parameters.items()} | {f"ema.{n}": e for n, e in self.ema.items()}
        tensors |= {f"optimizer.{name}": tensor for name, tensor in self.optimizer.tensors().items()}
        # Channels-last parameters are not contiguous, which the file format asks for.
        share = {name: tensors[name].contiguous() for name in list(tensors)[self.team.rank :: self.team.size]}
        shards = [path.with_suffix(f".{self.step}.{rank}.shard") for rank in range(1, self.team.size)]
        target = path if self.team.leads else shards[self.team.rank - 1]
        if not self.team.leads:
            save_file(share, target)
        self.team.wait()
        if self.team.leads:
            told = {"step": str(self.step)}
            told |= {"shards": json.dumps([shard.name for shard in shards])} if shards else {}
            told |= {"scaler": json.dumps(self.scaler.state_dict())} if self.scaler.is_enabled() else {}
            partial = path.with_suffix(".part")
            save_file(share, partial, metadata=told)
            os.replace(partial, path)
            for stale in set(path.parent.glob(f"{path.stem}.*.shard")) - set(shards):
                stale.unlink()

    @torch.no_grad()
    def restore(self, path: Path) -> None:
        """Continue from a checkpoint, if there is one, of however many processes."""
        if not path.is_file():
            return
        with contextlib.ExitStack() as stack:
            files = [stack.enter_context(safe_open(path, "pt"))]
            told = files[0].metadata()
            self.step = int(told["step"])
            files += [stack.enter_context(safe_open(path.with_name(n), "pt")) for n in json.loads(told.get("shards", "[]"))]
            where = {name: file for file in files for name in file.keys()}  # noqa: SIM118 (not a mapping)
            for name, p in self.parameters.items():
                p.copy_(where[f"model.{name}"].get_tensor(f"model.{name}"))
                self.ema[name].copy_(where[f"ema.{name}"].get_tensor(f"ema.{name}"))
            names = [name for name in where if name.startswith("optimizer.")]
            self.optimizer.restore({name.removeprefix("optimizer."): where[name].get_tensor(name) for name in names})
            if "scaler" in told and self.scaler.is_enabled():
                self.scaler.load_state_dict(json.loads(told["scaler"]))


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
