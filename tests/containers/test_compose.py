"""The compose file as it is shipped, brought up on podman's socket: one picture from the inbox to a mesh among the assets."""

import os
import secrets
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from flows.assets import open_assets
from img2mesh.storage import open_store
from tests.containers.conftest import ROOT, podman, podman_socket
from tests.integration.conftest import free_ports
from tests.integration.test_serve import Server

pytestmark = [pytest.mark.slow, pytest.mark.containers, pytest.mark.timeout(3000)]
PATIENCE_S = 900
SECRETS = ("POSTGRES_PASSWORD", "S3_INBOX_SECRET_KEY", "S3_WORK_SECRET_KEY", "S3_ASSETS_SECRET_KEY")
KEYS = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")


@dataclass(frozen=True)
class Compose:
    """A project of the shipped file, with its published ports moved out of others' way."""

    name: str
    folder: Path
    socket: Path
    settings: dict[str, str]
    api_port: int
    s3_port: int

    def __call__(self, *arguments: str) -> str:
        """Run compose to its end."""
        files = ["--file", str(ROOT / "docker-compose.yml"), "--file", str(self.folder / "ports.yml")]
        command = [str(Path(sys.executable).with_name("docker-compose")), "--project-name", self.name, *files, *arguments]
        environment = {**os.environ, **self.settings, "DOCKER_HOST": f"unix://{self.socket}"}
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, check=False, timeout=PATIENCE_S)
        assert ended.returncode == 0, ended.stdout[-3000:] + ended.stderr[-3000:]
        return ended.stdout


@contextmanager
def health_checked(project: str) -> Iterator[None]:
    """Run the health checks, as systemd's timers do for podman where there is systemd."""
    stop = threading.Event()

    def check() -> None:
        while not stop.wait(5):
            listed = podman("ps", "--quiet", f"--filter=label=com.docker.compose.project={project}", check=False).stdout
            for container in listed.split():
                podman("healthcheck", "run", container, check=False)

    thread = threading.Thread(target=check)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


@pytest.fixture
def compose(image: Callable[[str], str], tmp_path: Path) -> Iterator[Compose]:
    """The services up and healthy; gone with their volumes afterwards."""
    for family in ("orchestrator", "torch", "objectstore", "postgres"):
        image(family)
    api_port, s3_port = free_ports(2)
    moved = {"prefect": (api_port, 4200), "objectstore": (s3_port, 8333)}
    lines = [f'  {name}: {{ports: !override ["127.0.0.1:{here}:{there}"]}}' for name, (here, there) in moved.items()]
    (tmp_path / "ports.yml").write_text("\n".join(["services:", *lines]) + "\n")
    settings = {name: secrets.token_hex(16) for name in (*SECRETS, *KEYS)}
    name = f"img2mesh-test-{secrets.token_hex(4)}"
    with podman_socket(tmp_path) as socket, health_checked(name):
        made = Compose(name=name, folder=tmp_path, socket=socket, settings=settings, api_port=api_port, s3_port=s3_port)
        try:
            made("up", "--detach")
            yield made
        finally:
            made("down", "--volumes", "--timeout", "5")


def test_a_picture_submitted_through_compose_becomes_a_mesh(compose: Compose, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{compose.s3_port}")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    for role in ("inbox", "assets"):
        monkeypatch.setenv(f"IMG2MESH_{role.upper()}_ACCESS_KEY_ID", role)
        monkeypatch.setenv(f"IMG2MESH_{role.upper()}_SECRET_ACCESS_KEY", compose.settings[f"S3_{role.upper()}_SECRET_KEY"])
    picture = (ROOT / "examples/images/armchair.png").read_bytes()
    open_store("s3://img2mesh/inbox", "inbox").write("armchair.png", picture)
    server = Server(url=f"http://127.0.0.1:{compose.api_port}/api", folder=compose.folder)
    with urllib.request.urlopen(f"http://127.0.0.1:{compose.api_port}/", timeout=60) as page:
        assert b"<html" in page.read()
    deployment = server.call("/deployments/name/batch/daily")
    called = {"parameters": {**deployment["parameters"], "preset": "tiny"}}
    flow_run = server.call(f"/deployments/{deployment['id']}/create_flow_run", called)
    deadline = time.monotonic() + PATIENCE_S
    while (state := server.call(f"/flow_runs/{flow_run['id']}")["state"])["type"] not in ("COMPLETED", "FAILED", "CRASHED"):
        assert time.monotonic() < deadline, state
        time.sleep(2)
    assert state["type"] == "COMPLETED", compose("logs", "worker")[-3000:]
    assets = open_assets("s3://img2mesh-assets")
    document = assets.document("daily", "armchair")
    assert "mesh.glb" in document.files
    assert list(assets.rotten_files(document)) == []
    said = compose("logs")
    assert [name for name, secret in compose.settings.items() if secret in said] == []
