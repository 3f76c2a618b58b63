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
from pathlib import Path

import pytest

KEYS = ("WEED_JWT_SIGNING_KEY", "WEED_JWT_SIGNING_READ_KEY", "WEED_JWT_FILER_SIGNING_KEY", "WEED_JWT_FILER_SIGNING_READ_KEY")
START_TIMEOUT_S = 240


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


def role_actions(bucket: str) -> dict[str, list[str]]:
    """What each role may do, as SeaweedFS has it: the same as in docker-compose.yml, below a bucket of the tests."""
    return {
        "inbox": [f"Read:{bucket}/inbox/*", f"List:{bucket}/inbox/*"],
        "work": [f"{action}:{bucket}/work/*" for action in ("Read", "Write", "List")],
        "assets": [f"{action}:{bucket}/assets/*" for action in ("Read", "Write", "List")],
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


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Mapping[str, str]]:
    """The environment in which `s3://tests/...` is a bucket of a SeaweedFS server of our own."""
    folder = tmp_path_factory.mktemp("seaweedfs")
    port, master, volume, filer = free_ports(4)
    secret = secrets.token_hex(16)
    credentials = [{"accessKey": "tests", "secretKey": secret}]
    identity = {"name": "tests", "actions": ["Admin", "Read", "Write", "List"], "credentials": credentials}
    roles = [
        {"name": role, "actions": actions, "credentials": [{"accessKey": role, "secretKey": secret}]}
        for role, actions in role_actions("tests").items()
    ]
    (folder / "s3.json").write_text(json.dumps({"identities": [identity, *roles]}))
    command = [
        str(Path(sys.executable).parent / "weed"), "mini", "-bucket=tests",
        f"-dir={folder}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        f"-s3.port={port}", f"-master.port={master}", f"-volume.port={volume}", f"-filer.port={filer}", "-webdav=false",
        "-admin.ui=false", "-s3.port.iceberg=0", "-s3.port.lance=0", f"-s3.config={folder / 's3.json'}",
    ]  # fmt: skip
    environment = {**os.environ, "GOMEMLIMIT": "256MiB", **{key: secrets.token_hex(16) for key in KEYS}}
    log = folder / "weed.log"
    with (
        log.open("wb") as output,
        subprocess.Popen(command, cwd=folder, env=environment, stdout=output, stderr=output) as server,
    ):
        try:
            url = f"http://127.0.0.1:{port}"
            wait_until_it_answers(url, server, log)
            settings = {
                "AWS_ENDPOINT_URL": url,
                "AWS_ACCESS_KEY_ID": "tests",
                "AWS_SECRET_ACCESS_KEY": secret,
                "AWS_DEFAULT_REGION": "us-east-1",
            }
            wait_until_it_stores(settings)
            yield settings
        finally:
            server.kill()


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
