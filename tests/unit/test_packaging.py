"""What is in the wheel and the source archive that `pip install` gets."""

import os
import subprocess
import sys
import tarfile
import zipfile
from email.parser import Parser
from pathlib import Path

import pytest

from img2mesh import __version__

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    return zipfile.ZipFile(_build("wheel", tmp_path_factory.mktemp("wheel")))


def _build(target: str, folder: Path) -> Path:
    code = f"import sys, hatchling.build as b; print(b.build_{target}(sys.argv[1]))"
    command = [sys.executable, "-c", code, str(folder)]
    environment = {**os.environ, "SOURCE_DATE_EPOCH": "1700000000"}
    result = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    return folder / result.stdout.split()[-1]


def _tracked(*paths: str) -> set[str]:
    listing = subprocess.run(["git", "ls-files", "--", *paths], cwd=ROOT, capture_output=True, text=True, check=True)
    return {name for name in listing.stdout.splitlines() if (ROOT / name).is_file()}


def test_the_three_packages_and_nothing_else(wheel: zipfile.ZipFile) -> None:
    assert {name.split("/")[0] for name in wheel.namelist()} == {
        "img2mesh",
        "stages",
        "flows",
        f"img2mesh-{__version__}.dist-info",
    }
    assert _tracked("img2mesh", "stages", "flows") <= set(wheel.namelist())


def test_types_come_along(wheel: zipfile.ZipFile) -> None:
    assert {"img2mesh/py.typed", "stages/py.typed", "flows/py.typed"} <= set(wheel.namelist())


def test_weights_come_along_with_their_licence(wheel: zipfile.ZipFile) -> None:
    weights = {name for name in wheel.namelist() if name.startswith("img2mesh/weights/")}
    assert any(name.endswith(".safetensors") for name in weights)
    assert {"img2mesh/weights/LICENSE", "img2mesh/weights/ATTRIBUTION.md"} <= weights
    assert sum(wheel.getinfo(name).file_size for name in weights) <= 64 << 20


def test_no_caches_no_pickles_no_tests(wheel: zipfile.ZipFile) -> None:
    unwanted = ("__pycache__", ".pyc", ".pkl", ".pt", ".pth", ".ckpt", "test_")
    assert [name for name in wheel.namelist() if any(part in name for part in unwanted)] == []


def test_metadata(wheel: zipfile.ZipFile) -> None:
    folder = f"img2mesh-{__version__}.dist-info"
    metadata = Parser().parsestr(wheel.read(f"{folder}/METADATA").decode())
    assert (metadata["Name"], metadata["Version"]) == ("img2mesh", __version__)
    assert metadata["License-Expression"] == "Apache-2.0 AND CC-BY-SA-4.0"
    assert {f"{folder}/licenses/{name}" for name in metadata.get_all("License-File", [])} <= set(wheel.namelist())
    assert set(metadata.get_all("Provides-Extra", [])) == {"dev", "docker", "kubernetes", "matting", "pymeshlab"}
    plain = [line for line in metadata.get_all("Requires-Dist", []) if "extra ==" not in line]
    assert not any(line.startswith("pymeshlab") for line in plain)
    assert wheel.read(f"{folder}/entry_points.txt").decode().split("\n")[1] == "img2mesh = flows.cli:main"


def test_the_same_sources_give_the_same_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    with zipfile.ZipFile(_build("wheel", tmp_path)) as again:
        assert [(i.filename, i.CRC) for i in again.infolist()] == [(i.filename, i.CRC) for i in wheel.infolist()]


def test_the_source_archive_is_whole(tmp_path: Path) -> None:
    with tarfile.open(_build("sdist", tmp_path)) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"pyproject.toml", "LICENSE", "NOTICE", "README.md", "Makefile", "tests/unit/test_packaging.py"} <= names
    assert not any(name.startswith(("assets/", ".venv/")) for name in names)
