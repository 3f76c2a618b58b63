"""Threads share one heap, where the C library can be told."""

import os
import platform
import subprocess
import sys

import pytest

from flows.launch import environment

# Sixteen threads that live at once, each with memory of its own; then glibc lists its heaps.
THREADS = """
import ctypes, threading
from flows.memory import share_one_heap
share_one_heap()
met, kept = threading.Barrier(16), []
def hold():
    kept.append(bytearray(50_000))
    met.wait()
threads = [threading.Thread(target=hold) for _ in range(16)]
for thread in threads: thread.start()
for thread in threads: thread.join()
libc = ctypes.CDLL(None)
libc.malloc_info(0, ctypes.c_void_p.in_dll(libc, "stdout"))
libc.fflush(None)
"""


def heaps(**settings: str) -> int:
    variables = {name: value for name, value in environment().items() if name != "MALLOC_ARENA_MAX"} | settings
    ended = subprocess.run([sys.executable, "-c", THREADS], env=variables, capture_output=True, text=True, check=True)
    return ended.stdout.count("<heap nr=")


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has several heaps")
def test_threads_share_one_heap_unless_the_user_wants_more() -> None:
    assert heaps() == 1
    assert 1 < heaps(MALLOC_ARENA_MAX="4") <= 4


def test_what_is_started_does_so_too(monkeypatch: pytest.MonkeyPatch) -> None:
    from flows.memory import share_one_heap

    monkeypatch.setenv("MALLOC_ARENA_MAX", "3")
    share_one_heap()
    assert environment()["MALLOC_ARENA_MAX"] == "3"
    monkeypatch.delenv("MALLOC_ARENA_MAX")
    share_one_heap()
    assert environment()["MALLOC_ARENA_MAX"] == os.environ["MALLOC_ARENA_MAX"] == "1"
