"""A server between a client and a real one that misbehaves as told: errors, slowness, bodies cut short."""

import http.client
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import urlsplit

PASSED_ON = ("content-length", "transfer-encoding", "connection")


@dataclass(frozen=True)
class Fault:
    """What happens to one request: an answer of this status, a pause, a body that ends early; by default nothing."""

    status: int = 0
    pause_s: float = 0.0
    cut: bool = False


Choose = Callable[[str, str], Fault]


class Flaky(ThreadingHTTPServer):
    """Passes requests on to `target`, except as `choose(method, path)` says."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, target: str, choose: Choose) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.target = urlsplit(target).netloc
        self.choose = choose
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://127.0.0.1:{self.server_port}"

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients that are killed hang up; that is what the tests are for."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Flaky

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""

    def handle_any(self) -> None:
        self.server.requests.append(f"{self.command} {self.path}")
        fault = self.server.choose(self.command, self.path)
        body = self.rfile.read(int(self.headers.get("content-length") or 0))
        time.sleep(fault.pause_s)
        if fault.status:
            self.answer(fault.status, {}, b"")
            return
        upstream = http.client.HTTPConnection(self.server.target, timeout=60)
        try:
            headers = {name: value for name, value in self.headers.items() if name.lower() != "expect"}
            upstream.request(self.command, self.path, body, headers)
            answer = upstream.getresponse()
            content = answer.read()
            kept = {name: value for name, value in answer.getheaders() if name.lower() not in PASSED_ON}
            length = int(answer.getheader("content-length") or 0) if self.command == "HEAD" else len(content)
            self.answer(answer.status, kept, content[: len(content) // 2] if fault.cut else content, length)
        except OSError:
            self.answer(502, {}, b"")
        finally:
            upstream.close()
        self.close_connection |= fault.cut

    def answer(self, status: int, headers: dict[str, str], content: bytes, length: int | None = None) -> None:
        self.send_response_only(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(content) if length is None else length))
        self.end_headers()
        self.wfile.write(content)


# The names that http.server looks for.
for _method in ("GET", "PUT", "POST", "DELETE", "HEAD"):
    setattr(_Handler, f"do_{_method}", _Handler.handle_any)


@contextmanager
def flaky(target: str, choose: Choose) -> Iterator[Flaky]:
    """The server while the body runs."""
    with Flaky(target, choose) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
        thread.start()
        try:
            yield server
        finally:
            server.shutdown()
