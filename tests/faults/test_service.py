"""Servers that die, are slow or lie in the middle of a batch: all assets are published once, nothing is lost."""

import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Mapping
from pathlib import Path

import pytest

from flows.assets import open_assets
from flows.submit import Request, submit
from flows.verify import damages
from img2mesh.storage import blob_key, manifest_key, open_store
from tests.command import broken_assets, contents, free_devices, one_device, picture, run, start, wait
from tests.flaky_server import Fault, flaky
from tests.integration.conftest import free_ports, running_weed, wait_until_it_answers
from tests.small_cli import STEPS, in_a_loop, steps

IMAGES, STAGES = 20, 6


def inbox(folder: Path, images: int) -> None:
    for number in range(images):
        picture(folder / f"in/{number}.png", number)


def wait_for_stages(log: Path, count: int, alive: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and alive():
        if log.exists() and len(log.read_text().splitlines()) >= count:
            return
        time.sleep(0.02)
    raise AssertionError(log.read_text() if log.exists() else "nothing has run")


def most_often(log: Path) -> tuple[int, int]:
    """How many stages there were, and how many ran again."""
    counts = Counter(log.read_text().splitlines())
    return len(counts), sum(counts.values()) - len(counts)


class PrefectServer:
    """A server on a fixed port that can be killed and started again with its database."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.url = f"http://127.0.0.1:{self.port}/api"
        self.folder = folder
        self.start()

    def start(self) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
        quiet = {"PREFECT_HOME": str(self.folder), "DO_NOT_TRACK": "1", "PREFECT_UI_ENABLED": "0"}
        with (self.folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "prefect", "server", "start", "--port", str(self.port)],
                env={**environment, **quiet},
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        wait_until_it_answers(f"{self.url}/health", self.process, self.folder / "server.log")

    def kill(self) -> None:
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.mark.slow
def test_a_prefect_server_killed_in_the_middle_comes_back_and_the_same_submit_ends_well(tmp_path: Path) -> None:
    inbox(tmp_path, IMAGES)
    log = tmp_path / "log"
    (tmp_path / "prefect").mkdir()
    server = PrefectServer(tmp_path / "prefect")
    try:
        settings = {"PREFECT_API_URL": server.url, "SMALL_LOG": str(log), "SMALL_DELAY_S": "0.1", **one_device(tmp_path)}
        process = start("submit", "in", "--json", cwd=tmp_path, settings=settings)
        wait_for_stages(log, IMAGES * STAGES // 2, lambda: process.poll() is None)
        server.kill()
        server.start()
        ended = wait(process)
    finally:
        server.kill()
    assert (ended.code, ended.report()["published"]) == (0, IMAGES), ended.err
    stages, again = most_often(log)
    assert (stages, again <= 1) == (IMAGES * STAGES, True)
    assert broken_assets(tmp_path / "assets") == []
    assert list((tmp_path / "assets/.store/claims").iterdir()) == []
    assert free_devices(tmp_path) == ["gpu-0"]
    assert run("verify", cwd=tmp_path).code == 0


@pytest.mark.slow
@pytest.mark.s3
def test_a_store_killed_in_the_middle_comes_back_and_the_same_submit_ends_well(tmp_path: Path) -> None:
    inbox(tmp_path, IMAGES)
    log = tmp_path / "log"
    with running_weed(tmp_path) as weed:
        settings = {**weed.settings, "SMALL_LOG": str(log), "SMALL_DELAY_S": "0.1", "SMALL_PLAIN": "1"}
        places = ("--assets", "s3://tests/assets")
        process = start("submit", "in", *places, "--json", cwd=tmp_path, settings=settings)
        wait_for_stages(log, IMAGES * STAGES // 2, lambda: process.poll() is None)
        weed.kill()
        time.sleep(1)
        weed.start()
        ended = wait(process)
        assert (ended.code, ended.report()["published"]) == (0, IMAGES), ended.err
        assert most_often(log) == (IMAGES * STAGES, 0)
        assert run("verify", *places, cwd=tmp_path, settings=settings).code == 0


@pytest.mark.s3
def test_a_busy_slow_and_unreliable_store_costs_time_and_nothing_else(s3: Mapping[str, str], tmp_path: Path) -> None:
    inbox(tmp_path, 2)
    asked: list[str] = []

    def now_and_then(method: str, path: str) -> Fault:
        asked.append(path)
        turn = len(asked) % 12
        return {3: Fault(status=503), 7: Fault(pause_s=0.2), 11: Fault(cut=True)}.get(turn, Fault())

    with flaky(s3["AWS_ENDPOINT_URL"], now_and_then) as server:
        settings = {**s3, "AWS_ENDPOINT_URL": server.url, "SMALL_PLAIN": "1", "SMALL_LOG": str(tmp_path / "log")}
        places = ("--assets", f"s3://tests/unreliable-{os.getpid()}")
        ended = run("submit", "in", *places, "--json", cwd=tmp_path, settings=settings)
    assert (ended.code, ended.report()["published"]) == (0, 2), ended.err
    assert most_often(tmp_path / "log") == (2 * STAGES, 0)
    assert run("verify", *places, cwd=tmp_path, settings=dict(s3)).code == 0


@pytest.mark.parametrize("damage", ["flip", "cut", "lose"])
def test_no_damaged_artifact_is_ever_a_hit(tmp_path: Path, damage: str) -> None:
    inbox(tmp_path, 1)
    settings = {"SMALL_PLAIN": "1", "SMALL_LOG": str(tmp_path / "log")}
    assert run("submit", "in", cwd=tmp_path, settings=settings).code == 0
    whole = contents(tmp_path / "assets")
    store, published = open_store(str(tmp_path / "assets/.store")), open_assets(str(tmp_path / "assets"))
    document = published.document("in", "0")
    keys = [blob_key(document.files["mesh.glb"]), *(manifest_key(one.name, one.key) for one in document.stages[1:3])]
    for key in keys:
        data = store.read(key)
        assert data is not None
        if damage == "lose":
            store.delete(key)
        else:
            store.write(key, data[: len(data) // 2] if damage == "cut" else data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
    named = "\n".join(damages(published, store, ["in"], all_stored=True))
    assert all(key in named for key in keys)
    assert run("submit", "in", cwd=tmp_path, settings=settings).code == 0
    assert contents(tmp_path / "assets") == whole
    stages, again = most_often(tmp_path / "log")
    assert (stages, again) == (len(STEPS), 3)
    assert run("verify", cwd=tmp_path).code == 0


@pytest.mark.parametrize("file", ["mesh.glb", "asset.json", "preview.png"])
@pytest.mark.parametrize("damage", ["flip", "cut", "lose", "add"])
def test_a_damaged_asset_is_published_anew_and_nothing_is_computed(tmp_path: Path, file: str, damage: str) -> None:
    inbox(tmp_path, 2)
    settings = {"SMALL_PLAIN": "1", "SMALL_LOG": str(tmp_path / "log")}
    request = Request.of([str(tmp_path / "in")], assets=str(tmp_path / "assets"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        submit(request, steps(seed=0), run_pending=in_a_loop)
        whole = contents(tmp_path / "assets")
        place = tmp_path / "assets/in/1" / file
        data = place.read_bytes()
        match damage:
            case "flip":
                place.write_bytes(data[:-9] + bytes([data[-9] ^ 1]) + data[-8:])
            case "cut":
                place.write_bytes(data[:-1])
            case "lose":
                place.unlink()
            case _:
                place.with_name("stranger.txt").write_text("what is this")
        report = submit(request, steps(seed=0), run_pending=in_a_loop)
    assert (report.count("published"), report.stages(cached=False)) == (2, 0)
    assert contents(tmp_path / "assets") == whole


@pytest.mark.parametrize("jump_s", [-10 * 365 * 86400, 10 * 365 * 86400])
def test_a_clock_that_jumps_changes_nothing(tmp_path: Path, jump_s: int) -> None:
    inbox(tmp_path, 2)
    log = tmp_path / "log"
    assert run("submit", "in", cwd=tmp_path, settings={"SMALL_PLAIN": "1", "SMALL_LOG": str(log)}).code == 0
    whole = contents(tmp_path / "assets")
    picture(tmp_path / "in/late.png", 99)
    settings = {"SMALL_PLAIN": "1", "SMALL_LOG": str(log), "SMALL_CLOCK_S": str(jump_s)}
    assert run("submit", "in", cwd=tmp_path, settings=settings).code == 0
    assert most_often(log) == (3 * STAGES, 0)
    ended = run("gc", "--delete", "--json", cwd=tmp_path, settings=settings)
    assert ended.report()["objects"] == []
    assert {
        name: data for name, data in contents(tmp_path / "assets").items() if name in whole and "batch.json" not in name
    } == {name: data for name, data in whole.items() if "batch.json" not in name}
    assert run("verify", cwd=tmp_path, settings=settings).code == 0
