"""Where nerfstudio's environment is; imports no torch."""

import os
from pathlib import Path

from img2mesh.errors import InputError

VARIABLE = "IMG2MESH_NERFSTUDIO"


def interpreter() -> Path:
    """The Python of nerfstudio's environment.

    Raises:
        InputError: There is none.
    """
    known = os.environ.get(VARIABLE)
    python = Path(known) if known else Path.home() / ".cache" / "img2mesh" / "nerfstudio" / "bin" / "python"
    if not python.is_file():
        raise InputError(f"no nerfstudio at {python}: run infra/nerfstudio.sh, or set {VARIABLE} to a Python that has it")
    return python
