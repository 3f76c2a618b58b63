"""Prefect's embedded server for one submit: started beside it, gone with it, also when the submit is killed.

The server's home with its database is a numbered place in the user's cache that one process at a time holds by a lock, so that
submits that run at once do not meet, and later ones find a database that is set up.
"""

import contextlib
import fcntl
import http.client
import os
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from flows.launch import environment as launched
from flows.memory import share_one_heap
from img2mesh.errors import TransientError

START_TIMEOUT_S = 120
_MAX_DATABASE_BYTES = 128 * 1024**2
_QUIET = {
    "DO_NOT_TRACK": "1",
    "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
    "PREFECT_LOGGING_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_SERVER_LEVEL": "CRITICAL",
    "PREFECT_LOGGING_TO_API_ENABLED": "false",
    "PREFECT_CLI_PROMPT": "false",
    # A server may be told to give up runs that are silent for a minute; Prefect's own three minutes would be too long.
    "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
}
# A server writes the states of tasks to its database one by one, unless told otherwise; here, what a second brings together.
RECORDING = {
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_BATCH_SIZE": "500",
    "PREFECT_SERVER_SERVICES_TASK_RUN_RECORDER_FLUSH_INTERVAL": "1",
}
# This server has no deployments, workers or watchers: what would look after them, and the record of events, would cost a
# third of its time.
_AT_REST = {
    f"PREFECT_SERVER_SERVICES_{service}_ENABLED": "false"
    for service in (
        "CANCELLATION_CLEANUP",
        "CLEANUP_RECONCILER",
        "EVENT_PERSISTER",
        "FOREMAN",
        "LATE_RUNS",
        "PAUSE_EXPIRATIONS",
        "REPOSSESSOR",
        "SCHEDULER",
        "TRIGGERS",
    )
}


def quiet_environment() -> None:
    """Telemetry and chatter off, signs of life on, unless the user has set otherwise; call it before importing prefect."""
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)


@contextlib.contextmanager
def prefect_api() -> Iterator[Callable[[], None]]:
    """A Prefect API while the body runs: that of `PREFECT_API_URL`, or else a server of our own.

    Returns:
        A function that waits until the server answers, and raises TransientError if it does not come up.
    """
    quiet_environment()
    share_one_heap()
    if os.environ.get("PREFECT_API_URL"):
        yield _nothing_to_wait_for
        return
    with _home() as home, _server(home) as (url, wait):
        os.environ["PREFECT_HOME"] = str(home)
        os.environ["PREFECT_API_URL"] = url
        # It wants no such token, and would be asked for one for every image.
        os.environ["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"] = "false"
        try:
            yield wait
        finally:
            del os.environ["PREFECT_API_URL"], os.environ["PREFECT_CLIENT_CSRF_SUPPORT_ENABLED"]


def _nothing_to_wait_for() -> None:
    """The server is somebody else's."""


@contextlib.contextmanager
def _home() -> Iterator[Path]:
    """The first home that no other process holds."""
    cache = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "img2mesh"
    if not _can_make(cache):
        with tempfile.TemporaryDirectory(prefix="img2mesh-prefect-") as folder:
            yield Path(folder)
        return
    for number in range(1000):
        home = cache / f"prefect-{number}"
        home.mkdir(exist_ok=True)
        descriptor = os.open(home, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            continue
        try:
            _trim(home)
            yield home
        finally:
            os.close(descriptor)
        return
    raise TransientError(f"a thousand submits hold {cache}; wait for one of them to end")


def _can_make(folder: Path) -> bool:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        return False
    return os.access(folder, os.W_OK)


def _trim(home: Path) -> None:
    database = home / "prefect.db"
    if database.exists() and database.stat().st_size > _MAX_DATABASE_BYTES:
        for file in home.glob("prefect.db*"):
            file.unlink()


@contextlib.contextmanager
def _server(home: Path) -> Iterator[tuple[str, Callable[[], None]]]:
    """The server as a child that listens on a socket bound here: no other process can take its port."""
    with socket.socket() as listener, (home / "server.log").open("wb") as log:
        listener.bind(("127.0.0.1", 0))
        listener.listen(128)
        url = f"http://127.0.0.1:{listener.getsockname()[1]}/api"
        environment = {**RECORDING, **_AT_REST, **launched(), "PREFECT_HOME": str(home), "PREFECT_UI_ENABLED": "0"}
        environment["PREFECT__SERVER_EPHEMERAL"] = "1"
        environment["PREFECT__SERVER_FINAL"] = "1"
        command = [sys.executable, "-m", "flows.embedded", str(listener.fileno()), str(os.getpid())]
        # In a session of its own: a signal to the process group ends the submit, which still has this server to tell of it.
        with subprocess.Popen(
            command,
            env=environment,
            pass_fds=(listener.fileno(),),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
        ) as server:
            listener.close()
            try:
                yield url, lambda: _wait_until_healthy(url, server, home / "server.log")
            finally:
                # Its database is scratch: there is nothing to wait for.
                server.kill()


def _wait_until_healthy(url: str, server: "subprocess.Popen[bytes]", log: Path) -> None:
    deadline = time.monotonic() + START_TIMEOUT_S
    while time.monotonic() < deadline and server.poll() is None:
        if is_healthy(url):
            return
        time.sleep(0.05)
    lines = log.read_text(errors="replace").strip().splitlines()
    last = lines[-1] if lines else "no message"
    raise TransientError(
        f"Prefect's embedded server did not start within {START_TIMEOUT_S} s ({last}); see {log}, submit again"
    )


def is_healthy(url: str) -> bool:
    """Whether a Prefect API (`http://host:port/api`) answers."""
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    try:
        connection = kind(parts.hostname or "", parts.port, timeout=5)
        try:
            connection.request("GET", f"{parts.path.rstrip('/')}/health")
            return connection.getresponse().status == http.client.OK
        finally:
            connection.close()
    except (OSError, ValueError, http.client.HTTPException):
        return False


def _serve(descriptor: int, parent: int) -> None:
    """Serve on an inherited socket until the parent is gone."""
    threading.Thread(target=_end_with, args=(parent,), daemon=True).start()
    import uvicorn
    from prefect.server.api.server import create_app

    _write_in_turn()
    config = uvicorn.Config(create_app, factory=True, log_level="error", lifespan="on")
    uvicorn.Server(config).run(sockets=[socket.socket(fileno=descriptor)])


def _write_in_turn() -> None:
    """Let every transaction of the server take SQLite's write lock at its beginning.

    Otherwise one that reads first and finds, when it writes, that another was quicker, ends in a 503 that the client repeats
    after two seconds: several times an image where stages are short.
    """
    from prefect.server.database.configurations import AioSqliteConfiguration
    from prefect.server.database.dependencies import set_database_config
    from prefect.settings import PREFECT_API_DATABASE_CONNECTION_URL

    class InTurn(AioSqliteConfiguration):
        def begin_transaction(self, session: Any, with_for_update: bool = False) -> Any:
            return super().begin_transaction(session, with_for_update=True)

    set_database_config(InTurn(connection_url=PREFECT_API_DATABASE_CONNECTION_URL.value()))


def _end_with(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    os._exit(0)


if __name__ == "__main__":
    _serve(int(sys.argv[1]), int(sys.argv[2]))
