"""A Prefect server and a worker on one machine, and the scheduled batch that they run."""

import json
import signal
import sqlite3
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.launch import in_process, on_a_pool
from img2mesh import presets
from img2mesh.errors import InputError
from img2mesh.manifests import SourceImage
from img2mesh.storage import open_store
from stages import prepare
from tests.command import kill_at, kill_group, picture, run, start
from tests.integration.conftest import free_ports

pytestmark = pytest.mark.slow
PATIENCE_S = 300
PLANTED = "planted-credential-of-the-worker"


@dataclass(frozen=True)
class Server:
    """A running `img2mesh up`."""

    url: str
    folder: Path

    def call(self, path: str, body: Any = None, method: str | None = None) -> Any:
        """What the API answers."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}{path}", data=data, headers=headers, method=method)
        for pause_s in (0.5, 1.0, 2.0, 4.0, 8.0, 0.0):
            try:
                with urllib.request.urlopen(request, timeout=60) as answer:
                    return json.loads(answer.read() or b"null")
            except urllib.error.HTTPError as error:
                # SQLite was busy; Prefect's own client asks again, too.
                if error.code != 503 or not pause_s:
                    raise
            time.sleep(pause_s)
        raise AssertionError


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    """`img2mesh up` on a free port, stopped with Ctrl-C."""
    folder = tmp_path_factory.mktemp("up")
    (port,) = free_ports(1)
    settings = {"XDG_DATA_HOME": str(folder / "data"), "PREFECT_WORKER_QUERY_SECONDS": "1", "AWS_SECRET_ACCESS_KEY": PLANTED}
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
        deployed = run(*deploy, small=False, cwd=server.folder, settings=settings)
        assert (deployed.code, deployed.err) == (0, "")
        assert deployed.out.startswith("batch/birds: ")
    deployment = server.call("/deployments/name/batch/birds")
    assert [one["schedule"]["cron"] for one in deployment["schedules"]] == ["0 3 * * *"]
    assert set(deployment["tags"]) == {"img2mesh", "batch:birds", "preset:tiny"}
    names = {one["name"] for one in server.call("/deployments/filter", {})}
    assert names == {"birds", "report", "run", "submit", "train"}
    automations = server.call("/automations/filter", {})
    assert [one["name"] for one in automations] == ["img2mesh: runs that fall silent are crashed"]
    assert deployment["parameters"]["paths"] == [str(server.folder / "inbox")]
    # Two runs of one batch at once: the second waits.
    assert deployment["global_concurrency_limit"]["limit"] == 1
    state = ended(server, "batch/birds")
    assert state["type"] == "COMPLETED", state
    report = json.loads((server.folder / "out/birds/batch.json").read_text())
    assert [(row["name"], row["status"]) for row in report["rows"]] == [("text", "refused")]


def ended(server: Server, deployment: str, **parameters: Any) -> Any:
    """The last state of a run that was started as the UI starts it."""
    known = server.call(f"/deployments/name/{deployment}")
    flow_run = server.call(f"/deployments/{known['id']}/create_flow_run", {"parameters": parameters})
    deadline = time.monotonic() + PATIENCE_S
    while (state := server.call(f"/flow_runs/{flow_run['id']}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, state
        time.sleep(1)
    return state


def test_a_report_and_a_training_run_on_the_worker(server: Server) -> None:
    picture(server.folder / "reported/owl.png")
    assert run("submit", "reported", "--assets", "kept", cwd=server.folder, settings={"SMALL_PLAIN": "1"}).code == 0
    state = ended(server, "report/report", assets=str(server.folder / "kept"))
    assert state["type"] == "COMPLETED", state
    artifacts = {one["key"]: one for one in server.call("/artifacts/filter", {})}
    (row,) = json.loads(artifacts["images-reported"]["data"])
    assert (row["image"], row["status"]) == ("owl", "published")
    state = ended(server, "train/train", what="vae", arguments=[str(server.folder / "nothing")])
    assert (state["type"], "training vae ended with 2" in state["message"]) == ("FAILED", True), state


def test_a_schedule_that_is_none_is_one_line(server: Server) -> None:
    arguments = ("deploy", "--cron", "at dawn", "--inbox", "inbox")
    ended = run(*arguments, small=False, cwd=server.folder, settings={"PREFECT_API_URL": server.url})
    assert (ended.code, ended.err.count("\n")) == (2, 1), ended.err
    assert "'at dawn' in 'UTC' is no schedule" in ended.err


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
    assert set(owl["tags"]) == {"img2mesh", "batch:pictures", "preset:compact"}
    artifacts = {one["key"]: one for one in server.call("/artifacts/filter", {})}
    assert artifacts["progress-pictures"]["data"] == 100
    (row,) = json.loads(artifacts["images-pictures"]["data"])
    assert (row["image"], row["status"], row["front_iou"]) == ("owl", "published", 0.97)
    mesh = (server.folder / "assets/pictures/owl/mesh.glb").as_uri()
    assert row["mesh"] == f"[mesh.glb]({mesh})"
    assert "preview.png" in artifacts["report-pictures"]["data"]


def test_a_stage_on_the_pool_publishes_what_it_publishes_here(server: Server) -> None:
    store, elsewhere = (open_store(str(server.folder / name)) for name in ("pool", "here"))
    data = picture(server.folder / "pool.png", side_px=96).read_bytes()
    sources = [SourceImage(name="pool.png", image=place.put_blob(data, "image/png")) for place in (store, elsewhere)]
    broken = SourceImage(name="text.png", image=store.put_blob(b"no picture", "image/png"))
    params = prepare.Params.of(presets.get("compact"), seed=0)
    with temporary_settings({PREFECT_API_URL: server.url}):
        there = on_a_pool(prepare.STAGE, sources[0], params, store)
        with pytest.raises(InputError, match=r"text\.png: this is no readable PNG"):
            on_a_pool(prepare.STAGE, broken, params, store)
    here = in_process(prepare.STAGE, sources[1], params, elsewhere)
    assert (there.cached, there.outputs, there.publication.key) == (False, here.outputs, here.publication.key)
    names = {one["state"]["name"] for one in server.call("/flow_runs/filter", {"flows": {"name": {"any_": ["stage"]}}})}
    assert names == {"Completed", "InputError"}


def test_no_secret_of_the_worker_s_is_in_the_server_s_database(server: Server) -> None:
    (database,) = server.folder.rglob("prefect.db")
    with sqlite3.connect(database) as connection:
        dumped = "\n".join(connection.iterdump())
    assert "base_job_template" in dumped
    assert PLANTED not in dumped


def test_a_killed_run_is_crashed_by_the_automation_and_its_work_goes_on(server: Server) -> None:
    (automation,) = server.call("/automations/filter", {})
    quick = {key: automation[key] for key in ("name", "description", "enabled", "trigger", "actions")}
    assert quick["trigger"]["within"] == 60
    quick["trigger"]["within"] = 12
    server.call(f"/automations/{automation['id']}", quick, method="PUT")
    picture(server.folder / "more/cat.png", 7)
    log = server.folder / "log"
    settings = {"PREFECT_API_URL": server.url, "SMALL_LOG": str(log), "SMALL_DELAY_S": "0.5"}
    kill_at(start("submit", "more", cwd=server.folder, settings=settings), log, 3, 0.1)
    deadline = time.monotonic() + PATIENCE_S
    while True:
        runs = server.call("/flow_runs/filter", {"flow_runs": {"name": {"any_": ["cat", "more"]}}})
        if {one["state"]["type"] for one in runs} == {"CRASHED"}:
            break
        assert time.monotonic() < deadline, [(one["name"], one["state"]) for one in runs]
        time.sleep(1)
    assert {one["state"]["message"] for one in runs} == {"no heartbeat for 60 s: the worker or its machine has died"}
    ended = run("submit", "more", "--json", cwd=server.folder, settings={**settings, "SMALL_DELAY_S": "0", "SMALL_PLAIN": "1"})
    assert (ended.code, ended.report()["stages_found"]) == (0, 2), ended.err
