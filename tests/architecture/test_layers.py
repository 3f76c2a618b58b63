"""The import contracts in pyproject.toml hold, and each can fail: a violation planted in a copy is found."""

import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = ("img2mesh", "stages", "flows")

# Contract -> a file and the line that breaks it there.
VIOLATIONS = {
    "Packages are layers": ("img2mesh/geometry/cameras.py", "import img2mesh.neus"),
    "The store knows manifests and nothing of tensors": ("img2mesh/manifests.py", "import img2mesh.storage"),
    "Storage and numerics stand side by side": ("img2mesh/storage.py", "import img2mesh.geometry.cameras"),
    "Numerics neither store nor load artifacts": ("img2mesh/metrics/__init__.py", "import img2mesh.storage"),
    "Stages are independent": ("stages/decode.py", "import stages.prepare"),
    "Prefect, typer and rich live in flows only": ("img2mesh/stage.py", "import prefect"),
    "Only the store speaks S3": ("flows/__init__.py", "import boto3"),
    "GPL code is loaded by the mesh layer only": ("stages/export_mesh.py", "import pymeshlab"),
}


def _lint_imports(folder: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).with_name("lint-imports"), "--no-logo", "--no-cache"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)


def _plant(copy: Path, file: str, line: str) -> None:
    for package in PACKAGES:
        shutil.copytree(ROOT / package, copy / package, ignore=shutil.ignore_patterns("__pycache__", "weights"))
    shutil.copy(ROOT / "pyproject.toml", copy)
    with (copy / file).open("a", encoding="utf-8") as source:
        source.write(f"\n{line}\n")


def test_every_contract_is_kept() -> None:
    result = _lint_imports(ROOT)
    assert result.returncode == 0, result.stdout


def test_every_contract_has_a_planted_violation() -> None:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"]
    assert {contract["name"] for contract in settings["contracts"]} == set(VIOLATIONS)


@pytest.mark.parametrize("contract", VIOLATIONS)
def test_a_planted_violation_is_found(contract: str, tmp_path: Path) -> None:
    _plant(tmp_path, *VIOLATIONS[contract])
    result = _lint_imports(tmp_path)
    assert result.returncode == 1
    assert f"{contract} BROKEN" in result.stdout


def test_siblings_may_not_import_one_another(tmp_path: Path) -> None:
    _plant(tmp_path, "img2mesh/models/__init__.py", "import img2mesh.mesh")
    assert "Packages are layers BROKEN" in _lint_imports(tmp_path).stdout
