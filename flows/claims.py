"""Who is at work on an image: of the workers that race for it, one computes and the others wait for what it finds.

A claim is an object that is created once and rewritten by its holder every few seconds. It falls to the next one when its
holder has ended on this machine, or when it has not changed for a minute by the watcher's own steady clock: wrong or jumping
clocks do not matter. Claims only save work. What is published once is published once by the store, claims or not.
"""

import contextlib
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from img2mesh.errors import Img2MeshError
from img2mesh.storage import Store

PREFIX = "claims/"
RENEW_S = 15.0
SILENT_S = 60.0


class Claims:
    """The claims of one process in one store."""

    def __init__(self, store: Store, *, prefix: str = PREFIX) -> None:
        """Nothing claimed yet.

        Args:
            store: Where all workers look.
            prefix: Of the claims among its objects.
        """
        self._store, self._prefix = store, prefix
        self._seen: dict[str, tuple[bytes, float]] = {}

    @contextlib.contextmanager
    def claim(self, name: str) -> Iterator[bool]:
        """Hold the claim while the body runs; gives False, and nothing is held, where somebody else has it.

        Args:
            name: The same for all who would do the same work.
        """
        key, mine = f"{self._prefix}{name}", _holder()
        if not self._take(key, _content(mine, 0)):
            yield False
            return
        self._seen.pop(key, None)
        stop = threading.Event()
        thread = threading.Thread(target=self._renew, args=(key, mine, stop), daemon=True)
        thread.start()
        try:
            yield True
        finally:
            stop.set()
            thread.join()
            if _token(self._store.read(key)) == mine["token"]:
                self._store.delete(key)

    def _take(self, key: str, content: bytes) -> bool:
        if self._store.create(key, content):
            return True
        theirs = self._store.read(key)
        if theirs is None or not (_has_ended(theirs) or self._is_silent(key, theirs)):
            return False
        return self._store.update(key, lambda now: content if now in (theirs, None) else now) == content

    def _is_silent(self, key: str, content: bytes) -> bool:
        before, since_s = self._seen.get(key, (b"", 0.0))
        if before != content:
            self._seen[key] = (content, time.monotonic())
            return False
        return time.monotonic() - since_s > SILENT_S

    def _renew(self, key: str, mine: dict[str, Any], stop: threading.Event) -> None:
        beat = 0

        def renewed(now: bytes | None) -> bytes:
            return _content(mine, beat) if _token(now) == mine["token"] else now or b"{}"

        while not stop.wait(RENEW_S):
            beat += 1
            # A store that is away for a moment costs the claim, not the work.
            with contextlib.suppress(Img2MeshError):
                if _token(self._store.update(key, renewed)) != mine["token"]:
                    return


def _holder() -> dict[str, Any]:
    return {
        "host": socket.gethostname(),
        "boot": _boot(),
        "pid": os.getpid(),
        "started": _started(os.getpid()),
        "token": secrets.token_hex(8),
    }


def _content(holder: dict[str, Any], beat: int) -> bytes:
    return json.dumps({**holder, "beat": beat}, sort_keys=True).encode()


def _token(content: bytes | None) -> str | None:
    with contextlib.suppress(ValueError, AttributeError):
        token = json.loads(content or b"{}").get("token")
        return str(token) if token else None
    return None


def _has_ended(content: bytes) -> bool:
    """Whether the holder was a process of this machine that is no more; an unreadable claim has no holder."""
    try:
        holder = json.loads(content)
        here = (holder["host"], holder["boot"]) == (socket.gethostname(), _boot())
        return here and _started(int(holder["pid"])) != holder["started"]
    except (ValueError, KeyError, TypeError):
        return True


def _boot() -> str:
    """What tells one start of this machine's kernel and one container's processes from another's."""
    with contextlib.suppress(OSError):
        spaces = Path("/proc/self/ns/pid").readlink()
        return f"{Path('/proc/sys/kernel/random/boot_id').read_text().strip()} {spaces}"
    return "unknown"


def _started(pid: int) -> str:
    """When a process began, in the kernel's ticks; empty if there is none."""
    with contextlib.suppress(OSError):
        stat = Path(f"/proc/{pid}/stat").read_text()
        fields = stat.rpartition(")")[2].split()
        return "" if fields[0] == "Z" else fields[19]
    return ""
