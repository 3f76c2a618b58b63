"""Stages as runs on a docker work pool, by Prefect's own worker on podman's socket."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from prefect.settings import PREFECT_API_URL, temporary_settings

from flows.launch import in_process, on_a_pool
from flows.reconstruct import stages_of
from img2mesh import presets
from img2mesh.errors import InputError
from img2mesh.manifests import Model, SourceImage
from img2mesh.storage import open_store
from stages import prepare
from tests.command import run
from tests.containers.conftest import ROOT, owned, podman_socket
from tests.integration.conftest import free_ports, wait_until_it_answers

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3000)]
SERVICE = """
[stages]
name = "containers"
type = "docker"
job_template = "{root}/infra/docker/job-template.json"
[stages.job_variables]
image_pull_policy = "Never"
volumes = ["{store}:{store}", "{root}/img2mesh/weights:/weights:ro"]
env = {{HOME = "/tmp", OMP_NUM_THREADS = "1"}}
"""


@contextmanager
def prefect(*arguments: str, log: Path, settings: dict[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A program of Prefect's, gone with all it has started."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")} | settings
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-m", "prefect", *arguments], env=environment, stdout=said, stderr=said, start_new_session=True
        )
    try:
        yield process
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


@pytest.fixture
def pool(image: Callable[[str], str], tmp_path: Path) -> Iterator[str]:
    """The URL of a server whose stages run in containers."""
    image("torch")
    (port,) = free_ports(1)
    url = f"http://127.0.0.1:{port}/api"
    settings = {"PREFECT_HOME": str(tmp_path / "home"), "DO_NOT_TRACK": "1", "PREFECT_UI_ENABLED": "0", "PREFECT_API_URL": url}
    settings["PREFECT_WORKER_QUERY_SECONDS"] = "1"
    (tmp_path / "service.toml").write_text(SERVICE.format(root=ROOT, store=tmp_path / "there"))
    with (
        podman_socket(tmp_path) as socket,
        prefect("server", "start", "--port", str(port), log=tmp_path / "server.log", settings=settings) as server,
    ):
        wait_until_it_answers(f"{url}/health", server, tmp_path / "server.log")
        registered = run("deploy", "--file", "service.toml", small=False, cwd=tmp_path, settings=settings)
        assert registered.code == 0, registered.err
        settings["DOCKER_HOST"] = f"unix://{socket}"
        arguments = ("worker", "start", "--pool", "containers", "--type", "docker")
        with prefect(*arguments, log=tmp_path / "worker.log", settings=settings):
            yield url


@pytest.mark.usefixtures("one_thread")
def test_stages_on_a_docker_pool_publish_what_they_publish_in_this_process(pool: str, tmp_path: Path) -> None:
    here, there = open_store(str(tmp_path / "here")), open_store(str(tmp_path / "there"))
    data = (ROOT / "examples/images/armchair.png").read_bytes()
    source: Model = SourceImage(name="armchair", image=here.put_blob(data, "image/png"))
    there.put_blob(data, "image/png")
    broken = SourceImage(name="text.png", image=there.put_blob(b"no picture", "image/png"))
    owned(tmp_path / "there")
    inputs = [source, source]
    with temporary_settings({PREFECT_API_URL: pool}):
        # Those after them do as these three do, and take long.
        for stage, params in stages_of(presets.tiny(), seed=0, formats=("glb",))[:3]:
            results = [in_process(stage, inputs[0], params, here), on_a_pool(stage, inputs[1], params, there)]
            assert [one.cached for one in results] == [False, False], (tmp_path / "worker.log").read_text()[-3000:]
            assert results[0].outputs == results[1].outputs, stage.name
            assert results[0].publication.key == results[1].publication.key
            inputs = [one.outputs for one in results]
        with pytest.raises(InputError, match=r"text\.png: this is no readable PNG"):
            on_a_pool(prepare.STAGE, broken, prepare.Params.of(presets.tiny(), seed=0), there)
