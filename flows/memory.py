"""One heap for all threads of a process.

glibc gives each thread a heap of its own, up to eight a core, and each heap keeps the most that was ever in it. A worker with
threads of Prefect that come and go grows by memory that no object uses. Heaps of their own gain these threads nothing: what
computes at length holds its memory, and the rest waits for Python's lock anyway.
"""

import contextlib
import ctypes
import os

_VARIABLE = "MALLOC_ARENA_MAX"
_M_ARENA_MAX = -8


def share_one_heap() -> None:
    """Let this process, from now on, and all that it starts do with one heap, unless MALLOC_ARENA_MAX says otherwise.

    It does the most where few threads run yet. Another C library than glibc is left as it is.
    """
    if _VARIABLE in os.environ:
        return
    os.environ[_VARIABLE] = "1"
    with contextlib.suppress(AttributeError, OSError):
        ctypes.CDLL(None).mallopt(_M_ARENA_MAX, 1)
