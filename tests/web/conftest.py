"""What `make web` installs; without it these tests are left out, and the run says so."""

import os
from pathlib import Path
from shutil import which

import pytest

TOOLS = Path(os.environ.get("IMG2MESH_WEB_TOOLS", Path(__file__).parents[2] / ".venv" / "web"))
COMPLETE = (TOOLS / "node_modules" / "gltf-validator").is_dir() and which("node") is not None and which("chromium") is not None

collect_ignore_glob = [] if COMPLETE else ["test_*.py"]


def pytest_report_header() -> str:
    return "" if COMPLETE else "tests/web is left out: run make web first"


@pytest.fixture(scope="session")
def tools() -> Path:
    """The folder that `make web` filled."""
    return TOOLS
