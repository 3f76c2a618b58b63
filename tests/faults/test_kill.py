"""Kill -9 at any moment of a batch of 20, submit again: the same assets, at most one stage once more, nothing half-written."""

import contextlib
import os
import random
import signal
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.command import broken_assets, contents, free_devices, kill_at, one_device, picture, run, start, wait

PICTURES = 20
STAGES = 6


@pytest.fixture(scope="module")
def reference(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The batch as it is when nothing is killed."""
    folder = tmp_path_factory.mktemp("reference")
    inbox(folder)
    assert run("submit", "in", cwd=folder, settings={"SMALL_PLAIN": "1"}).code == 0
    return folder


def inbox(folder: Path) -> None:
    for number in range(PICTURES):
        picture(folder / f"in/{number}.png", number)


def recomputed(log: Path) -> int:
    """How many stages ran more than once."""
    counts = Counter(log.read_text().splitlines())
    assert len(counts) == PICTURES * STAGES
    return sum(counts.values()) - len(counts)


def stages_of(parent: int) -> list[int]:
    """The processes of stages that a submit has started."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if int(fields[1]) == parent and b"--stage" in (place / "cmdline").read_bytes():
                found.append(int(place.name))
    return found


@pytest.mark.slow
@pytest.mark.parametrize("moment", range(6))
def test_killed_without_prefect_at_a_random_moment(tmp_path: Path, reference: Path, moment: int) -> None:
    chance = random.Random(moment)
    inbox(tmp_path)
    log = tmp_path / "log"
    settings = {"SMALL_PLAIN": "1", "SMALL_LOG": str(log), "SMALL_DELAY_S": "0.03"}
    process = start("submit", "in", cwd=tmp_path, settings=settings)
    kill_at(process, log, chance.randint(1, PICTURES * STAGES), chance.uniform(0, 0.1))
    assert broken_assets(tmp_path / "assets") == []
    assert run("submit", "in", cwd=tmp_path, settings={**settings, "SMALL_DELAY_S": "0"}).code == 0
    assert recomputed(log) <= 1
    assert contents(tmp_path / "assets") == contents(reference / "assets")
    assert run("verify", cwd=tmp_path).code == 0


@pytest.mark.slow
def test_killed_in_prefect_leaves_no_server_behind(tmp_path: Path, reference: Path) -> None:
    inbox(tmp_path)
    log = tmp_path / "log"
    settings = {"SMALL_LOG": str(log), **one_device(tmp_path)}
    process = start("submit", "in", cwd=tmp_path, settings={**settings, "SMALL_DELAY_S": "0.1"})
    kill_at(process, log, PICTURES * STAGES // 2, 0.05)
    assert free_devices(tmp_path) == ["gpu-0"]
    assert broken_assets(tmp_path / "assets") == []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and servers_of(tmp_path):
        time.sleep(0.2)
    assert servers_of(tmp_path) == []
    assert run("submit", "in", cwd=tmp_path, settings=settings).code == 0
    assert recomputed(log) <= 1
    assert contents(tmp_path / "assets") == contents(reference / "assets")


@pytest.mark.slow
def test_a_killed_stage_runs_again_and_the_same_submit_ends_well(tmp_path: Path, reference: Path) -> None:
    inbox(tmp_path)
    log = tmp_path / "log"
    settings = {"SMALL_LOG": str(log), "SMALL_DELAY_S": "0.03", **one_device(tmp_path)}
    # A process for each stage takes its time: they take over where most of the batch is done.
    kill_at(start("submit", "in", cwd=tmp_path, settings={**settings, "SMALL_PLAIN": "1"}), log, 17 * STAGES, 0.0)
    process = start(
        "submit", "in", "--json", "--launch", "subprocess", cwd=tmp_path, settings={**settings, "SMALL_DELAY_S": "0.5"}
    )
    lines = len(log.read_text().splitlines())
    deadline = time.monotonic() + 200
    while len(log.read_text().splitlines()) < lines + STAGES:
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.02)
    for stage in stages_of(process.pid):
        os.kill(stage, signal.SIGKILL)
    ended = wait(process)
    assert (ended.code, ended.report()["published"]) == (0, PICTURES), ended.err
    assert free_devices(tmp_path) == ["gpu-0"]
    # One for each kill; at the first, a stage may just have ended.
    assert 1 <= recomputed(log) <= 2
    assert contents(tmp_path / "assets") == contents(reference / "assets")


def servers_of(folder: Path) -> list[str]:
    """Processes whose Prefect home is below the folder."""
    found = []
    for place in Path("/proc").glob("[0-9]*"):
        try:
            environment = (place / "environ").read_bytes()
        except OSError:
            continue
        if os.fsencode(f"PREFECT_HOME={folder}") in environment:
            found.append(place.name)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("send", "number"),
    [(os.kill, signal.SIGINT), (os.killpg, signal.SIGINT), (os.killpg, signal.SIGTERM)],
    ids=["kill -INT", "Ctrl-C", "systemctl stop"],
)
def test_an_interruption_is_one_line_and_the_next_submit_goes_on(
    tmp_path: Path, send: Callable[[int, int], None], number: signal.Signals
) -> None:
    inbox(tmp_path)
    log = tmp_path / "log"
    process = start("submit", "in", "--json", cwd=tmp_path, settings={"SMALL_LOG": str(log), "SMALL_DELAY_S": "1"})
    while process.poll() is None and not (log.exists() and len(log.read_text().splitlines()) >= 3):
        time.sleep(0.05)
    send(process.pid, number)
    ended = wait(process)
    assert (ended.code, ended.out) == (130, "")
    assert ended.err.splitlines()[-1].startswith("img2mesh: interrupted; finished stages are kept")
    assert "Traceback" not in ended.err
    assert broken_assets(tmp_path / "assets") == []
    assert run("submit", "in", cwd=tmp_path, settings={"SMALL_LOG": str(log), "SMALL_PLAIN": "1"}).code == 0
    assert recomputed(log) <= 1
