"""A real S3 server for the tests that need one."""

import json
import os
import secrets
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

KEYS = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")
START_TIMEOUT_S = 240
SHIPPED = Path(__file__).parents[2] / "infra/objectstore"


def free_ports(count: int) -> list[int]:
    """Ports that nobody listens on, nor on the one 10000 above, where SeaweedFS serves its own protocol."""
    found: list[int] = []
    while len(found) < count:
        port = 20_000 + secrets.randbelow(10_000)
        with socket.socket() as first, socket.socket() as second:
            try:
                first.bind(("127.0.0.1", port))
                second.bind(("127.0.0.1", port + 10_000))
            except OSError:
                continue
        if port not in found:
            found.append(port)
    return found


def roles(bucket: str, secret: str) -> dict[str, Any]:
    """The users of all roles with one secret key, as SeaweedFS is told; assets have a bucket of their own."""
    roles, policy = (
        json.loads((SHIPPED / name).read_text().replace("BUCKET", bucket)) for name in ("roles.json", "assets-policy.json")
    )
    users = {"tests": {"actions": ["Admin", "Read", "Write", "List"]}, **roles}
    return {
        "identities": [
            {"name": name, "credentials": [{"accessKey": name, "secretKey": secret}], **may} for name, may in users.items()
        ],
        "policies": [{"name": "assets", "content": json.dumps(policy)}],
    }


def wait_until_it_answers(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return when something answers, whatever it says."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        assert server.poll() is None, log.read_text(errors="replace")[-2000:]
        try:
            urllib.request.urlopen(url, timeout=5).close()
        except urllib.error.HTTPError:
            return
        except OSError:
            time.sleep(0.2)
        else:
            return
    raise TimeoutError(log.read_text(errors="replace")[-2000:])


class Weed:
    """A SeaweedFS server that can be killed and started again with its data."""

    def __init__(self, folder: Path) -> None:
        port, master, volume, filer = free_ports(4)
        self.url = f"http://127.0.0.1:{port}"
        self._log = folder / "weed.log"
        self._folder = folder
        secret = secrets.token_hex(16)
        self.settings = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "tests",
            "AWS_SECRET_ACCESS_KEY": secret,
            "AWS_DEFAULT_REGION": "us-east-1",
        }
        (folder / "s3.json").write_text(json.dumps(roles("tests", secret)))
        self._command = [
            str(Path(sys.executable).parent / "weed"), "mini", "-bucket=tests,tests-assets",
            f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
            f"-s3.port={port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-webdav=false",
            "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
        ]  # fmt: skip
        self._environment = {**os.environ, "GOMEMLIMIT": "2GiB", **{key: secrets.token_hex(16) for key in KEYS}}
        self.start()

    def start(self) -> None:
        """Return when it answers."""
        with self._log.open("ab") as output:
            self._server = subprocess.Popen(
                self._command, cwd=self._folder, env=self._environment, stdout=output, stderr=output
            )
        wait_until_it_answers(self.url, self._server, self._log)

    @property
    def pid(self) -> int:
        """Of the server's process."""
        return self._server.pid

    def kill(self) -> None:
        """Kill it with no chance to clean up."""
        self._server.kill()
        self._server.wait()


@contextmanager
def running_weed(folder: Path) -> Iterator[Weed]:
    """A server of its own, ready to store in the bucket `tests`."""
    place = folder / "seaweedfs"
    place.mkdir()
    weed = Weed(place)
    try:
        wait_until_it_stores(weed.settings)
        yield weed
    finally:
        weed.kill()


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment in which `s3://tests/...` is a bucket of a SeaweedFS server of our own."""
    with running_weed(tmp_path_factory.mktemp("s3")) as weed:
        yield weed.settings


def wait_until_it_stores(settings: Mapping[str, str]) -> None:
    """Return when an object can be written: the server answers before its volumes do."""
    from img2mesh.errors import Img2MeshError
    from img2mesh.storage import open_store

    with pytest.MonkeyPatch.context() as patch:
        for name, value in settings.items():
            patch.setenv(name, value)
        deadline = time.monotonic() + START_TIMEOUT_S
        while True:
            try:
                open_store("s3://tests").write("ready", b"")
            except Img2MeshError:
                if time.monotonic() > deadline:
                    raise
                time.sleep(0.5)
            else:
                return
