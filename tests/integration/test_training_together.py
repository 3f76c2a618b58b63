"""Two processes train as one does with all of their objects, and go on after a kill."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file

from tests.train_together import STEPS

ROOT = Path(__file__).parents[2]
SIDE_PX = 32


@pytest.fixture
def views(tmp_path: Path) -> Path:
    """Rendered views of four objects without splits: random pictures of a ball's depth."""
    folder = tmp_path / "views"
    folder.mkdir()
    generator = torch.Generator().manual_seed(0)
    side = torch.linspace(-1, 1, SIDE_PX)
    ball = side[:, None].square() + side.square()
    depth = torch.where(ball < 0.5, 2 - (0.5 - ball).clamp(min=0).sqrt(), 0).expand(1, 6, -1, -1)
    rows = []
    for name in "abcd":
        rgb = torch.randint(256, (1, 6, SIDE_PX, SIDE_PX, 3), generator=generator, dtype=torch.uint8)
        alpha = (depth > 0).to(torch.uint8)[..., None] * 255
        tensors = {"rgba": torch.cat([rgb, alpha], dim=-1), "normal": rgb.clone(), "depth": depth.half().contiguous()}
        save_file(tensors | {"front_azimuth_deg": torch.zeros(1)}, folder / f"{name}.safetensors")
        rows.append({"id": name, "split": "train", "source": "folder", "file": f"{name}.safetensors"})
    (folder / "index.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def start(views: Path, out: Path, processes: int) -> subprocess.Popen[str]:
    several = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    command = [sys.executable, *(several if processes > 1 else ()), "tests/train_together.py", str(views), str(out)]
    # One thread each, so that sums are taken in the same order.
    settings = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        command, cwd=ROOT, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def losses(out: Path) -> list[float]:
    log = out / "log.jsonl"
    return [json.loads(row)["loss"] for row in log.read_text().splitlines()] if log.is_file() else []


def trained(out: Path) -> dict[str, torch.Tensor]:
    """All tensors of a checkpoint, whoever wrote them."""
    with safe_open(out / "checkpoint.safetensors", "pt") as file:
        names = [out / name for name in json.loads(file.metadata().get("shards", "[]"))]
    tensors = {}
    for path in (out / "checkpoint.safetensors", *names):
        with safe_open(path, "pt") as file:
            tensors |= {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    return tensors


@pytest.mark.slow
def test_two_processes_have_the_losses_of_one_also_after_a_kill(views: Path, tmp_path: Path) -> None:
    alone, together, killed = (tmp_path / name for name in ("alone", "together", "killed"))
    for out, processes in ((alone, 1), (together, 2)):
        process = start(views, out, processes)
        said, _ = process.communicate(timeout=400)
        assert process.returncode == 0, said
    assert len(losses(alone)) == STEPS
    assert losses(together) == pytest.approx(losses(alone), abs=1e-5)
    expected, found = trained(alone), trained(together)
    assert found.keys() == expected.keys()
    assert max(float((found[name] - expected[name]).abs().max()) for name in expected) < 1e-6
    # Each has written half of the tensors.
    assert len(list(together.glob("*.shard"))) == 1

    process = start(views, killed, 2)
    while len(losses(killed)) < 2 and process.poll() is None:
        time.sleep(0.02)
    for victim in (process.pid, *(int(path.read_text()) for path in killed.glob("*.pid"))):
        os.kill(victim, signal.SIGKILL)
    process.communicate()
    before = losses(killed)
    assert 2 <= len(before) < STEPS
    # One process goes on with what two have left.
    process = start(views, killed, 1)
    said, _ = process.communicate(timeout=400)
    assert process.returncode == 0, said
    again = {json.loads(row)["step"]: json.loads(row)["loss"] for row in (killed / "log.jsonl").read_text().splitlines()}
    assert [again[step] for step in range(1, STEPS + 1)] == pytest.approx(losses(alone), abs=1e-5)
    assert not list(killed.glob("*.shard"))
