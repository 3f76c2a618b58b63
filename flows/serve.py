"""Prefect on one machine: server with its UI, a process work pool, a worker."""

import contextlib
import ipaddress
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from flows.deployments import HEARTBEATS, POOL, Service, register
from flows.embedded import RECORDING, START_TIMEOUT_S, is_healthy, quiet_environment
from flows.launch import environment as launched
from flows.memory import share_one_heap
from img2mesh.errors import InputError, TransientError
from img2mesh.storage import file_error

_STOP_TIMEOUT_S = 30


def serve(*, host: str, port: int, say: Callable[[str], None]) -> None:
    """Start server and worker, and stay until interrupted; then the worker is stopped before the server.

    Args:
        host: Address to listen on.
        port: Of the server and its UI.
        say: Is told what runs where.

    Raises:
        TransientError: Server or worker does not come up, or one of them ends.
    """
    quiet_environment()
    share_one_heap()
    reachable = "127.0.0.1" if ipaddress.ip_address(socket.gethostbyname(host)).is_unspecified else host
    url = f"http://{reachable}:{port}/api"
    if is_healthy(url):
        raise InputError(f"a Prefect server already answers at {url}; choose another --port")
    environment = _environment(url)
    with _interruptible(), _child(["server", "start", "--host", host, "--port", str(port)], environment) as server:
        _wait_for(url, server)
        os.environ["PREFECT_API_URL"] = url
        register(Service())
        say(f"server and UI: {url.removesuffix('/api')}")
        say(f"to use it: export PREFECT_API_URL={url}")
        with _child(["worker", "start", "--pool", POOL, "--type", "process", "--limit", "1"], environment) as worker:
            say(f"worker: waits on the pool {POOL}; Ctrl-C stops it, then the server")
            while server.poll() is None and worker.poll() is None:
                time.sleep(0.2)
    raise TransientError(f"Prefect's {'server' if worker.poll() is None else 'worker'} has ended; see its messages above")


def _environment(url: str) -> dict[str, str]:
    home = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local/share") / "img2mesh" / "prefect"
    try:
        home.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise file_error(error, f"make the server's folder {home}") from error
    return {
        "PREFECT_HOME": str(home),
        **HEARTBEATS,
        **RECORDING,
        **launched(),
        "PREFECT_API_URL": url,
        "PREFECT_SERVER_UI_API_URL": url,
    }


@contextlib.contextmanager
def _child(arguments: list[str], environment: Mapping[str, str]) -> Iterator["subprocess.Popen[bytes]"]:
    """A Prefect program outside the terminal's process group, so that Ctrl-C reaches it in our order."""
    command = [sys.executable, "-m", "prefect", *arguments]
    with subprocess.Popen(command, env=dict(environment), start_new_session=True, stdout=sys.stderr) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.wait(_STOP_TIMEOUT_S)
            except subprocess.TimeoutExpired:
                process.kill()


@contextlib.contextmanager
def _interruptible() -> Iterator[None]:
    """A polite termination ends like Ctrl-C, which also works where a shell started this in the background and ignores it."""
    before = {number: signal.signal(number, signal.default_int_handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _wait_for(url: str, server: "subprocess.Popen[bytes]") -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline:
        if server.poll() is not None:
            raise TransientError(f"Prefect's server ended with {server.returncode}; see its messages above, try another --port")
        if is_healthy(url):
            return
        time.sleep(0.2)
    raise TransientError(f"Prefect's server at {url} did not start within {START_TIMEOUT_S} s")
