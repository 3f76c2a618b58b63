"""The training loop: schedule, averages, and the same losses after a kill."""

import contextlib
import json
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch

from img2mesh.data.dataset import Sample
from img2mesh.errors import NumericalError
from img2mesh.training.augmentation import mirrored
from img2mesh.training.loop import LoopConfig, schedule, train
from img2mesh.training.optimizer import Optimizer


@dataclass(frozen=True, kw_only=True)
class Task:
    loop: LoopConfig
    difficulty: str = "easy"


def line(out: Path, steps: int, *, until: int | None = None) -> list[float]:
    """Fit y = 2x, stopping after `until` steps as a kill would, at a checkpoint; returns the losses of the log."""
    torch.manual_seed(0)
    network = torch.nn.Linear(16, 16)  # a matrix for Muon and a vector for AdamW
    seen = 0

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        nonlocal seen
        if seen == until:
            raise KeyboardInterrupt
        seen += 1
        x = torch.rand(8, 16, generator=generator)
        return {"loss": (network(x) - 2 * x).square().mean()}

    config = LoopConfig(steps=steps, lr=0.05, warmup_steps=2, report_every=1, checkpoint_every_s=0)
    with contextlib.suppress(KeyboardInterrupt):
        train(network, loss, Task(loop=config), out, lambda: None)
    return [json.loads(row)["loss"] for row in (out / "log.jsonl").read_text().splitlines()]


def test_a_killed_run_has_the_losses_of_one_that_was_not(tmp_path: Path) -> None:
    whole = line(tmp_path / "whole", 12)
    line(tmp_path / "killed", 12, until=5)
    assert line(tmp_path / "killed", 12) == whole
    settings = json.loads((tmp_path / "killed" / "settings.json").read_text())
    assert (settings["difficulty"], settings["loop"]["steps"]) == ("easy", 12)


def test_a_loss_that_is_not_finite_is_named(tmp_path: Path) -> None:
    network = torch.nn.Linear(1, 1)
    loss = network.weight.sum() * float("nan")
    with pytest.raises(NumericalError, match="loss at step 0 is nan"):
        train(network, lambda _: {"loss": loss}, Task(loop=LoopConfig(steps=1, lr=1.0)), tmp_path, lambda: None)


def test_convolutions_move_alike_in_either_memory_order() -> None:
    moved = []
    for order in (torch.contiguous_format, torch.channels_last):
        torch.manual_seed(0)
        network = torch.nn.Conv2d(16, 24, 3).to(memory_format=order)  # type: ignore[call-overload]  # torch's stub lacks it
        before = network.weight.detach().clone()
        optimizer = Optimizer(network.parameters(), lr=1e-3, matrix_lr=0.01, weight_decay=0.0)
        network(torch.rand(2, 16, 8, 8).to(memory_format=order)).square().mean().backward()
        optimizer.step(1.0)
        moved.append(network.weight.detach() - before)
    torch.testing.assert_close(moved[0], moved[1], atol=2e-4, rtol=0.1)
    # An orthogonal step of 24 rows in 144 dimensions: each row about one learning rate long.
    assert moved[0].flatten(1).norm(dim=1).mean().item() == pytest.approx(0.01, rel=0.3)


def test_the_schedule_warms_up_holds_and_cools_down() -> None:
    config = LoopConfig(steps=100, lr=1.0, warmup_steps=10, cooldown=0.5)
    factors = [schedule(step, config) for step in (0, 9, 30, 50, 75, 99)]
    assert factors == pytest.approx([0.1, 1.0, 1.0, 1.0, 0.5, 0.001], abs=1e-3)


def test_mirroring_twice_is_nothing() -> None:
    generator = torch.Generator().manual_seed(0)
    sample = Sample(
        rgb=torch.rand(6, 3, 4, 4, generator=generator),
        alpha=torch.rand(6, 4, 4, generator=generator),
        normals=torch.rand(6, 3, 4, 4, generator=generator),
        depth=torch.rand(6, 4, 4, generator=generator),
    )
    twice = mirrored(mirrored(sample))
    assert torch.equal(twice.rgb, sample.rgb)
    assert torch.equal(twice.normals, sample.normals)
    # The view from the right becomes the flipped view from the left.
    assert torch.equal(mirrored(sample).rgb[2], sample.rgb[4].flip(-1))


def test_adamw_alone_moves_matrices_and_vectors_also_with_a_scaled_loss() -> None:
    moved = []
    for scaled in (False, True):
        torch.manual_seed(0)
        network = torch.nn.Linear(16, 16)
        optimizer = Optimizer(network.parameters(), lr=1e-3, matrix_lr=None, weight_decay=0.0)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        before = network.weight.detach().clone()
        scaler.scale(network(torch.ones(2, 16)).square().mean()).backward()
        optimizer.unscale(scaler)
        optimizer.step(1.0, scaler)
        moved.append(network.weight.detach() - before)
        # Overflown gradients move nothing.
        still = network.weight.detach().clone()
        scaler.scale(network(torch.full((2, 16), float("inf"))).sum()).backward()
        optimizer.unscale(scaler)
        if scaled:
            optimizer.step(1.0, scaler)
            assert torch.equal(network.weight.detach(), still)
    torch.testing.assert_close(moved[0], moved[1], atol=1e-6, rtol=1e-3)
    assert moved[0].abs().median().item() == pytest.approx(1e-3, rel=0.01)


def test_muon_refuses_a_scaled_loss() -> None:
    optimizer = Optimizer(torch.nn.Linear(16, 16).parameters(), lr=1e-3, matrix_lr=0.01, weight_decay=0.0)
    with pytest.raises(ValueError, match="AdamW alone"):
        optimizer.unscale(torch.amp.GradScaler("cpu"))


def test_draws_are_averaged(tmp_path: Path) -> None:
    """The loss of a step is the mean of its draws, the first of which is that of a run with one draw."""
    seen: list[float] = []

    def loss(generator: torch.Generator) -> dict[str, torch.Tensor]:
        seen.append(float(torch.rand((), generator=generator)))
        return {"loss": network.weight.sum() * 0 + seen[-1]}

    network = torch.nn.Linear(1, 1)
    for draws, folder in ((1, "one"), (3, "three")):
        config = LoopConfig(steps=1, draws=draws, report_every=1)
        train(network, loss, Task(loop=config), tmp_path / folder, lambda: None)
    assert seen[0] == seen[1]
    assert len(set(seen)) == 3
    row = json.loads((tmp_path / "three" / "log.jsonl").read_text())
    assert row["loss"] == pytest.approx(sum(seen[1:]) / 3, abs=1e-5)
