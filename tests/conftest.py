"""What every test needs: one thread, so that many tests may run beside other work, and quick suites before slow ones."""

import os
import signal
import time

import pytest

os.environ.setdefault("OMP_NUM_THREADS", "1")

# A shell's background jobs ignore Ctrl-C and pass that on; the programs that tests start must hear it.
signal.signal(signal.SIGINT, signal.default_int_handler)

# Quick ones first, so that a mistake is told soon.
_SUITES = ("architecture", "unit", "property", "golden", "web", "integration", "containers", "faults")
_SLOW_SUITES = {"web", "containers", "faults"}
# Where CI has only so much time, slow tests that it does not come to are skipped and listed, instead of ended in the middle.
_ENDS = time.monotonic() + float(os.environ.get("IMG2MESH_TEST_SECONDS", "inf"))


def _suite(item: pytest.Item) -> str:
    return item.path.relative_to(item.config.rootpath).parts[1]


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Suites in the order of their pace, their tests as they come."""
    items.sort(key=lambda item: _SUITES.index(_suite(item)))


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Nothing slow is begun when the time is over."""
    if (item.get_closest_marker("slow") or _suite(item) in _SLOW_SUITES) and time.monotonic() > _ENDS:
        pytest.skip("slow, and the time is over: run it by itself")
