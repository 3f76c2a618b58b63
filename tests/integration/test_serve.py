"""A Prefect server and a worker on one machine, and the scheduled batch that they run."""

import json
import signal
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.command import kill_group, picture, run, start
from tests.integration.conftest import free_ports

pytestmark = pytest.mark.slow
PATIENCE_S = 300


@dataclass(frozen=True)
class Server:
    """A running `img2mesh up`."""

    url: str
    folder: Path

    def call(self, path: str, body: Any = None) -> Any:
        """What the API answers."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers={"Content-Type": "application/json"})
        with urllib.request.urlopen(request, timeout=60) as answer:
            return json.loads(answer.read())


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`img2mesh up` on a free port, stopped with Ctrl-C."""
    folder = tmp_path_factory.mktemp("up")
    (port,) = free_ports(1)
    settings = {"XDG_DATA_HOME": str(folder / "data"), "PREFECT_WORKER_QUERY_SECONDS": "1"}
    process = start("up", "--port", str(port), small=False, cwd=folder, settings=settings)
    try:
        assert process.stdout is not None
        said = [process.stdout.readline() for _ in range(3)]
        assert f"export PREFECT_API_URL=http://127.0.0.1:{port}/api" in said[1], said
        yield Server(url=f"http://127.0.0.1:{port}/api", folder=folder)
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=PATIENCE_S)
        assert process.returncode == 0
    finally:
        kill_group(process)


def test_a_scheduled_batch_runs_on_the_worker(server: Server) -> None:
    (server.folder / "inbox").mkdir()
    (server.folder / "inbox/text.png").write_text("no picture")
    deploy = ("deploy", "--cron", "0 3 * * *", "--inbox", "inbox", "--assets", "out", "--preset", "tiny", "--name", "birds")
    settings = {"PREFECT_API_URL": server.url}
    for _ in range(2):
        ended = run(*deploy, small=False, cwd=server.folder, settings=settings)
        assert (ended.code, ended.err) == (0, "")
        assert ended.out.startswith("batch/birds: ")
    deployment = server.call("/deployments/name/batch/birds")
    assert [one["schedule"]["cron"] for one in deployment["schedules"]] == ["0 3 * * *"]
    assert deployment["parameters"]["paths"] == [str(server.folder / "inbox")]
    flow_run = server.call(f"/deployments/{deployment['id']}/create_flow_run", {})
    deadline = time.monotonic() + PATIENCE_S
    while (state := server.call(f"/flow_runs/{flow_run['id']}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, state
        time.sleep(1)
    assert state["type"] == "COMPLETED", state
    report = json.loads((server.folder / "out/birds/batch.json").read_text())
    assert [(row["name"], row["status"]) for row in report["rows"]] == [("text", "refused")]


def test_a_schedule_that_is_none_is_one_line(server: Server) -> None:
    arguments = ("deploy", "--cron", "at dawn", "--inbox", "inbox")
    ended = run(*arguments, small=False, cwd=server.folder, settings={"PREFECT_API_URL": server.url})
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "'at dawn' is no schedule" in ended.err


def test_a_second_server_on_the_same_port_is_one_line(server: Server) -> None:
    port = server.url.removesuffix("/api").rsplit(":", 1)[1]
    ended = run("up", "--port", port, small=False, cwd=server.folder)
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "already answers" in ended.err


def test_a_submit_reports_to_the_server(server: Server) -> None:
    picture(server.folder / "pictures/owl.png")
    ended = run("submit", "pictures", "--json", cwd=server.folder, settings={"PREFECT_API_URL": server.url})
    assert ended.code == 0, ended.err
    runs = server.call("/flow_runs/filter", {"flows": {"name": {"any_": ["reconstruct"]}}})
    (owl,) = (one for one in runs if one["name"] == "owl")
    assert owl["state"]["type"] == "COMPLETED"
    tasks = server.call("/task_runs/filter", {"task_runs": {"flow_run_id": {"any_": [owl["id"]]}}})
    assert {task["name"] for task in tasks} == {"prepare", "multiview", "coarse_neus", "decode", "refit_neus", "export_mesh"}
