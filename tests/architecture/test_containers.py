"""The container files keep the promises that no linter checks."""

import json
import os
import re
import runpy
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
DOCKERFILES = sorted((ROOT / "containers").glob("Dockerfile.*"))
PYPROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")


def _name(path: Path) -> str:
    return path.suffix.removeprefix(".")


def _requirements(image: str) -> list[str]:
    pins: list[str] = runpy.run_path(str(ROOT / "containers/requirements.py"))["requirements"](image, PYPROJECT)
    return pins


def _services() -> dict[str, Any]:
    services: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))["services"]
    return services


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_images_take_a_base_and_run_as_nobody_special(path: Path) -> None:
    lines = path.read_text(encoding="utf-8").splitlines()
    assert "ARG BASE=docker.io/library/python:3.11-slim-bookworm" in lines
    assert {line.split()[1] for line in lines if line.startswith("FROM ")} == {"${BASE}"}
    assert [line for line in lines if line.startswith("USER ")][-1] == "USER 10001"
    assert any("org.opencontainers.image.licenses" in line for line in lines)


def _installed(image: str) -> list[str]:
    """All pins of the sets that an image installs."""
    text = (ROOT / f"containers/Dockerfile.{image}").read_text(encoding="utf-8")
    return [pin for name in re.findall(r"--requirement /tmp/(\w+)\.txt", text) for pin in _requirements(name)]


def test_only_the_mesh_image_holds_gpl_software_and_says_so() -> None:
    holds_gpl = {_name(path) for path in DOCKERFILES if any("pymeshlab" in pin for pin in _installed(_name(path)))}
    says_gpl = {_name(path) for path in DOCKERFILES if re.search(r'licenses="[^"]*GPL', path.read_text(encoding="utf-8"))}
    assert holds_gpl == says_gpl == {"mesh"}


@pytest.mark.parametrize("path", DOCKERFILES, ids=_name)
def test_images_install_pinned_versions(path: Path) -> None:
    pins = _installed(_name(path))
    assert pins or _name(path) == "postgres"
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9-]+(==[\w.]+|[<>].*<[\d.]+|<[\d.]+)", pin)] == []


def test_nerfstudio_s_environment_is_pinned_as_a_whole() -> None:
    lines = (ROOT / "containers/nerfstudio.txt").read_text(encoding="utf-8").splitlines()
    pins = [line for line in lines if not line.startswith("#")]
    assert [pin for pin in pins if not re.fullmatch(r"[a-z0-9_-]+==[\w.]+", pin)] == []
    assert {"nerfstudio", "nerfacc"} <= {pin.partition("==")[0] for pin in pins}


def test_the_orchestrator_comes_without_torch() -> None:
    names = {re.split("[<>=]", pin)[0] for pin in _installed("orchestrator")}
    assert {"prefect", "typer", "boto3", "pydantic"} <= names
    assert not names & {"torch", "diffusers", "open3d", "pymeshlab"}


def test_no_set_without_pins() -> None:
    with pytest.raises(ValueError, match="no set is called gpu"):
        _requirements("gpu")


def test_entrypoints_run_stages() -> None:
    def entrypoint(image: str) -> list[str]:
        text = (ROOT / f"containers/Dockerfile.{image}").read_text(encoding="utf-8")
        words: list[str] = json.loads(text.rpartition("ENTRYPOINT ")[2].splitlines()[0])
        return words

    assert entrypoint("torch") == ["python", "-m"]
    assert entrypoint("mesh") == entrypoint("nerfstudio") == ["python", "-m"]
    assert entrypoint("orchestrator") == ["img2mesh"]


def test_services_publish_on_this_machine_only_and_report_their_health() -> None:
    services = _services()
    published = {name: service.get("ports", []) for name, service in services.items()}
    assert published == {
        "postgres": [],
        "prefect": ["127.0.0.1:4200:4200"],
        "objectstore": ["127.0.0.1:8333:8333"],
        "buckets": [],
        "deployments": [],
        "worker": [],
        "worker-gpu": [],
    }
    assert {name for name, service in services.items() if "healthcheck" not in service} == {"buckets", "deployments"}
    assert all(service["cap_drop"] == ["ALL"] for service in services.values())


def test_the_store_s_users_may_what_their_roles_say() -> None:
    compose = yaml.safe_load((ROOT / "docker-compose.yml").read_text(encoding="utf-8"))
    told = json.loads(compose["configs"]["s3"]["content"])
    roles, policy = (
        json.loads((ROOT / "infra/objectstore" / name).read_text().replace("BUCKET", "img2mesh"))
        for name in ("roles.json", "assets-policy.json")
    )
    kept = {"actions", "policyNames"}
    assert {user["name"]: {key: user[key] for key in kept & set(user)} for user in told["identities"]} == roles
    assert {one["name"]: json.loads(one["content"]) for one in told["policies"]} == {"assets": policy}


def test_compose_itself_takes_the_file() -> None:
    program = Path(sys.executable).with_name("docker-compose")
    settings = (ROOT / ".env.example").read_text(encoding="utf-8").replace("=\n", "=planted\n")
    environment = {**os.environ, **dict(line.split("=", 1) for line in settings.splitlines() if "=" in line and line[0] != "#")}
    command = [str(program), "--file", str(ROOT / "docker-compose.yml"), "--profile", "gpu", "config", "--quiet"]
    assert subprocess.run(command, env=environment, check=False).returncode == 0


def test_secrets_have_no_default() -> None:
    example = (ROOT / ".env.example").read_text(encoding="utf-8")
    settings = dict(line.split("=", 1) for line in example.splitlines() if line and not line.startswith("#"))
    compose = (ROOT / "docker-compose.yml").read_text(encoding="utf-8")
    assert set(settings.values()) == {""}
    assert set(re.findall(r"\$\{(\w+):\?", compose)) == set(settings)
    assert set(re.findall(r"\$\{(\w+):-", compose)) == {"IMG2MESH_VERSION", "IMG2MESH_WEIGHTS", "IMG2MESH_DEVICES"}


def test_compose_starts_this_version() -> None:
    from img2mesh import __version__

    images = {service["image"] for service in _services().values() if service["image"].startswith("img2mesh-")}
    assert {image.partition(":")[2] for image in images} == {f"${{IMG2MESH_VERSION:-{__version__}}}"}
    assert {image.partition(":")[0] for image in images} <= {f"img2mesh-{_name(path)}" for path in DOCKERFILES}
