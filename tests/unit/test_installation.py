"""The two scripts that a fresh machine meets first, with the system's programs replaced by stand-ins."""

import os
import stat
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
LIBRARIES = ("libusb-1.0.so.0", "libEGL.so.1", "libGL.so.1", "libOpenGL.so.0", "libX11.so.6", "libgomp.so.1")


def _program(folder: Path, name: str, script: str) -> None:
    path = folder / name
    path.write_text(f"#!/bin/bash\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)


def _run(script: str, *arguments: str, path: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PATH": f"{path}:{os.environ['PATH']}"}
    command = ["bash", str(ROOT / "infra" / script), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, check=False)


def _known_libraries(folder: Path, *names: str) -> None:
    lines = "\\n".join(f"\\t{name} (libc6,x86-64) => /usr/lib/{name}" for name in names)
    _program(folder, "ldconfig", f"printf '{lines}\\n'")


def test_nothing_happens_when_all_libraries_are_there(tmp_path: Path) -> None:
    _known_libraries(tmp_path, *LIBRARIES)
    _program(tmp_path, "apt-get", "echo called >&2")
    result = _run("system.sh", path=tmp_path)
    assert (result.returncode, result.stdout, result.stderr) == (0, "", "")


def test_root_installs_what_is_missing_and_nothing_else(tmp_path: Path) -> None:
    _known_libraries(tmp_path, *LIBRARIES[:4], "libX11.so.6.4", LIBRARIES[5])
    _program(tmp_path, "id", "echo 0")
    _program(tmp_path, "apt-get", "echo $* >&2")
    result = _run("system.sh", path=tmp_path)
    assert result.returncode == 0
    assert result.stderr.splitlines() == ["-qq update", "-qq install --yes --no-install-recommends libx11-6"]


def test_others_get_one_line_that_names_the_packages(tmp_path: Path) -> None:
    _known_libraries(tmp_path, *LIBRARIES[1:])
    _program(tmp_path, "id", "echo 1000")
    result = _run("system.sh", path=tmp_path)
    assert result.returncode == 1
    assert len(result.stderr.splitlines()) == 1
    assert result.stderr.strip().endswith("sudo apt-get install libusb-1.0-0")


def test_the_first_suitable_python_is_taken(tmp_path: Path) -> None:
    _program(tmp_path, "python-old", "exit 1")
    _program(tmp_path, "python-new", "exit 0")
    result = _run("python.sh", "python-absent", "python-old", "python-new", path=tmp_path)
    assert (result.returncode, result.stdout.strip()) == (0, str(tmp_path / "python-new"))


@pytest.mark.parametrize(("version", "suits"), [((3, 10), False), ((3, 11), True), ((3, 12), True), ((3, 13), False)])
def test_python_version_decides(tmp_path: Path, version: tuple[int, int], suits: bool) -> None:
    # The script's own condition, run by this interpreter with another version number.
    _program(tmp_path, "python-x", f'exec "{sys.executable}" -c "import sys; sys.version_info = {(*version, 0)}; $2"')
    result = _run("python.sh", "python-x", path=tmp_path)
    assert (result.returncode == 0) is suits
    if not suits:
        assert len(result.stderr.splitlines()) == 1
        assert "3.11 or 3.12" in result.stderr
