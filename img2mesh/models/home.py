"""Where weights are: those that the package carries, and those that a person has pulled."""

import json
import os
from pathlib import Path

from img2mesh.errors import ArtifactError

SHIPPED = Path(__file__).parents[1] / "weights"
LISTING = "SHA256SUMS"


def pulled_home() -> Path:
    """The folder of pulled weights: `IMG2MESH_WEIGHTS`, or a folder among the user's data."""
    named = os.environ.get("IMG2MESH_WEIGHTS")
    data = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(named) if named else Path(data) / "img2mesh" / "weights"


def weights_path(name: str) -> Path:
    """The file of these weights; those of a pulled family are named `family/part`. An image has even the shipped ones mounted.

    Raises:
        ArtifactError: There is none.
    """
    path = SHIPPED / f"{name}.safetensors"
    if "/" in name or not path.is_file():
        path = pulled_home() / f"{name}.safetensors"
    if not path.is_file():
        raise ArtifactError(f"weights {name} are missing at {path}: {advice(name)}")
    return path


def origins(name: str) -> dict[str, str]:
    """SHA-256 of the published files that these weights were converted from, by file; empty for weights trained here."""
    try:
        with weights_path(name).open("rb") as file:
            header = json.loads(file.read(int.from_bytes(file.read(8), "little")))
    except (OSError, ArtifactError):
        return {}
    found: dict[str, str] = json.loads(header.get("__metadata__", {}).get("origins", "{}"))
    return found


def advice(name: str) -> str:
    """What brings weights back that are missing or damaged."""
    return f"run `img2mesh models pull {name.split('/', maxsplit=1)[0]}`" if "/" in name else "reinstall img2mesh"


def listed_digests(folder: Path) -> dict[str, str]:
    """Digests by file name of a folder's weights, from a listing that `sha256sum --check` reads; empty without one."""
    listing = folder / LISTING
    lines = listing.read_text(encoding="ascii").splitlines() if listing.is_file() else []
    return {name: digest for digest, name in (line.split(maxsplit=1) for line in lines)}
