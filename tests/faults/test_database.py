"""A service on PostgreSQL: kill -9 of the database, and of a worker with its run, in the middle of a batch of 20."""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command import broken_assets, free_devices, kill_group, one_device, picture, run, start, wait
from tests.integration.conftest import free_ports, wait_until_it_answers
from tests.integration.test_serve import Server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
ROOT = Path(__file__).parents[2]
IMAGES, STAGES = 20, 6
PATIENCE_S = 400
NOBODY = 65534


def program(name: str) -> str:
    """PostgreSQL's program, which Debian puts out of the way."""
    found = [shutil.which(name), *map(str, Path("/usr/lib/postgresql").glob(f"*/bin/{name}"))]
    places = [place for place in found if place]
    if not places and not os.environ.get("IMG2MESH_TEST_ALL"):
        pytest.skip(f"there is no {name} here: install postgresql")
    return places[0]


class Postgres:
    """A database server that can be killed and started again with its data; it never runs as root."""

    def __init__(self, folder: Path) -> None:
        (self.port,) = free_ports(1)
        self.folder = folder
        self._as = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
        if self._as:
            os.chown(folder, NOBODY, NOBODY)
        made = ["--username=prefect", "--auth=trust", "--encoding=UTF8", f"--pgdata={folder / 'data'}"]
        subprocess.run([program("initdb"), *made], check=True, stdout=subprocess.DEVNULL, cwd=folder, **self._as)
        self.start()

    @property
    def url(self) -> str:
        """As Prefect is told."""
        return f"postgresql+asyncpg://prefect@127.0.0.1:{self.port}/postgres"

    def start(self) -> None:
        """Return when it takes connections."""
        command = [program("postgres"), "-D", "data", "-p", str(self.port), "-k", str(self.folder), "-h", "127.0.0.1"]
        self.process = subprocess.Popen(
            command, cwd=self.folder, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, **self._as
        )
        ready = [program("pg_isready"), "-q", "-h", "127.0.0.1", "-p", str(self.port)]
        deadline = time.monotonic() + PATIENCE_S
        while subprocess.run(ready, check=False).returncode != 0:
            assert time.monotonic() < deadline
            assert self.process.poll() is None
            time.sleep(0.1)

    def kill(self) -> None:
        """Kill it and all its processes with no chance to clean up."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@dataclass(frozen=True)
class Service:
    """Database and Prefect server, with the pool registered."""

    database: Postgres
    server: Server
    environment: dict[str, str]

    def worker(self, log: Path) -> "subprocess.Popen[bytes]":
        """A worker of the pool, whose runs use the small stages."""
        small = {"SMALL_LOG": str(log), "SMALL_DELAY_S": "0.1", "PREFECT_WORKER_QUERY_SECONDS": "1", **one_device(log.parent)}
        small["PYTHONPATH"] = os.pathsep.join([str(ROOT / "tests/small_worker"), str(ROOT)])
        command = [sys.executable, "-m", "prefect", "worker", "start", "--pool", "img2mesh", "--type", "process"]
        with (self.server.folder / "worker.log").open("ab") as said:
            return subprocess.Popen(
                command, env={**self.environment, **small}, stdout=said, stderr=said, start_new_session=True
            )

    def processes(self) -> list[int]:
        """All that a worker and its runs consist of."""
        found = []
        for place in Path("/proc").glob("[0-9]*"):
            try:
                environment = (place / "environ").read_bytes()
            except OSError:
                continue
            if b"small_worker" in environment and os.fsencode(self.server.url) in environment:
                found.append(int(place.name))
        return found


@pytest.fixture(scope="module")
def service() -> Iterator[Service]:
    """PostgreSQL, Prefect's server on it, and a pool with room for one run."""
    from flows.deployments import HEARTBEATS

    folder = Path(tempfile.mkdtemp(prefix="img2mesh-database-"))
    folder.chmod(0o755)
    (folder / "postgres").mkdir()
    database = Postgres(folder / "postgres")
    (port,) = free_ports(1)
    server = Server(url=f"http://127.0.0.1:{port}/api", folder=folder)
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {**HEARTBEATS, "PREFECT_HOME": str(folder / "prefect"), "PREFECT_API_URL": server.url, "DO_NOT_TRACK": "1"}
    own = {"PREFECT_API_DATABASE_CONNECTION_URL": database.url, "PREFECT_UI_ENABLED": "0"}
    with (folder / "server.log").open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={**environment, **own},
            stdout=said,
            stderr=said,
            start_new_session=True,
        )
    try:
        wait_until_it_answers(f"{server.url}/health", process, folder / "server.log")
        (folder / "service.toml").write_text("[pool]\nconcurrency = 1\n")
        registered = run("deploy", "--file", "service.toml", small=False, cwd=folder, settings={"PREFECT_API_URL": server.url})
        assert registered.code == 0, registered.err
        yield Service(database=database, server=server, environment=environment)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        database.kill()
        shutil.rmtree(folder)


def inbox(folder: Path) -> None:
    for number in range(IMAGES):
        picture(folder / f"in/{number:02}.png", number)


def wait_for_lines(log: Path, count: int) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not log.exists() or len(log.read_text().splitlines()) < count:
        assert time.monotonic() < deadline, "the stages do not begin"
        time.sleep(0.05)


def assert_all_are_there_once(folder: Path, log: Path) -> None:
    counts = Counter(log.read_text().splitlines())
    assert (len(counts), sum(counts.values()) - len(counts) <= 1) == (IMAGES * STAGES, True)
    assert broken_assets(folder / "assets") == []
    assert len(list((folder / "assets/in").glob("*/asset.json"))) == IMAGES
    assert list((folder / "assets/.store/claims").iterdir()) == []
    assert free_devices(folder) == ["gpu-0"]
    assert run("verify", cwd=folder).code == 0


def test_a_database_killed_in_the_middle_comes_back_and_the_same_submit_ends_well(service: Service, tmp_path: Path) -> None:
    inbox(tmp_path)
    log = tmp_path / "log"
    settings = {"PREFECT_API_URL": service.server.url, "SMALL_LOG": str(log), "SMALL_DELAY_S": "0.05", **one_device(tmp_path)}
    process = start("submit", "in", "--json", cwd=tmp_path, settings=settings)
    try:
        wait_for_lines(log, IMAGES * STAGES // 2)
        service.database.kill()
        time.sleep(2)
        service.database.start()
        ended = wait(process)
    finally:
        kill_group(process)
    assert (ended.code, ended.report()["published"]) == (0, IMAGES), ended.err
    assert_all_are_there_once(tmp_path, log)


def called(service: Service, folder: Path) -> dict[str, Any]:
    """A run of `batch/submit`, started from the API."""
    deployment = service.server.call("/deployments/name/batch/submit")
    places = {"paths": [str(folder / "in")], "assets": str(folder / "assets"), "store": str(folder / "assets/.store")}
    made: dict[str, Any] = service.server.call(
        f"/deployments/{deployment['id']}/create_flow_run", {"parameters": {**places, "preset": "tiny"}}
    )
    return made


def ended_as(service: Service, run_id: str) -> str:
    deadline = time.monotonic() + PATIENCE_S
    while True:
        state = service.server.call(f"/flow_runs/{run_id}")["state"]
        if state["type"] in ("COMPLETED", "FAILED", "CRASHED", "CANCELLED"):
            return str(state["type"])
        assert time.monotonic() < deadline, state
        time.sleep(1)


def workers(service: Service) -> list[str]:
    return sorted(one["status"] for one in service.server.call("/work_pools/img2mesh/workers/filter", {}))


def test_a_worker_killed_with_its_run_is_noticed_and_the_next_one_goes_on(service: Service, tmp_path: Path) -> None:
    inbox(tmp_path)
    log = tmp_path / "log"
    first, last = service.worker(log), None
    try:
        one = called(service, tmp_path)
        wait_for_lines(log, IMAGES * STAGES // 2)
        for number in service.processes():
            os.kill(number, signal.SIGKILL)
        first.wait()
        killed_s = time.monotonic()
        assert broken_assets(tmp_path / "assets") == []
        while workers(service) != ["OFFLINE"]:
            assert time.monotonic() - killed_s < 60, "the dead worker is not noticed"
            time.sleep(1)
        # The pool has room for one run: the next one starts only when the dead one's place is free again.
        other = called(service, tmp_path)
        last = service.worker(log)
        assert [ended_as(service, one["id"]), ended_as(service, other["id"])] == ["CRASHED", "COMPLETED"]
        report = json.loads((tmp_path / "assets/in/batch.json").read_text())
        assert Counter(row["status"] for row in report["rows"]) == {"published": IMAGES}
        assert_all_are_there_once(tmp_path, log)
    finally:
        for number in service.processes():
            os.kill(number, signal.SIGKILL)
        for process in (first, last):
            if process is not None:
                process.wait()
