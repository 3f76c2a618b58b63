"""nerfstudio's NeuS and NeuS-facto in the place of ours: the same views in, the same surface out.

Its pins conflict with ours, so it lives in an environment of its own, which `infra/nerfstudio.sh` makes, and runs as a program.
"""

import subprocess
import tempfile
from pathlib import Path

import numpy as np
import torch

from img2mesh.errors import NumericalError
from img2mesh.geometry.nerfstudio import write_nerfstudio
from img2mesh.geometry.views import Views
from img2mesh.neus.config import FitConfig
from img2mesh.neus.environment import interpreter
from img2mesh.neus.grid import spacing
from img2mesh.neus.surface import Surface

_SCRIPT = Path(__file__).with_name("nerfstudio_side.py")
_PREFIX = "nerfstudio-"


def fit_with_nerfstudio(views: Views, config: FitConfig, *, seed: int) -> Surface:
    """The surface that nerfstudio trains on the views.

    Raises:
        InputError: Its environment is missing.
        NumericalError: The training failed, or left no surface.
    """
    resolution = config.resolutions[-1]
    options = {
        "method": config.method.removeprefix(_PREFIX),
        "steps": config.nerfstudio.steps,
        "rays": config.nerfstudio.rays,
        "width": config.nerfstudio.width,
        "resolution": resolution,
        "seed": seed,
    }
    with tempfile.TemporaryDirectory(prefix="img2mesh-") as name:
        run(views, Path(name), options)
        sdf = torch.from_numpy(np.load(Path(name) / "result.npz")["sdf"])
    return Surface(sdf=sdf, inv_std=config.sharpness[1] / spacing(resolution)).checked()


def run(views: Views, folder: Path, options: dict[str, object]) -> None:
    """Train on the views in a folder, which then holds `result.npz`.

    Args:
        options: Of `nerfstudio_side.py`, without the dashes.

    Raises:
        InputError: The environment is missing.
        NumericalError: The training failed.
    """
    command = [str(interpreter()), "-I", str(_SCRIPT), str(folder), str(folder)]
    write_nerfstudio(views, [f"{view:02d}" for view in range(len(views))], folder, up="z")
    for option, value in options.items():
        command += [f"--{option}", *map(str, value if isinstance(value, tuple) else (value,))]
    ended = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode != 0 or not (folder / "result.npz").is_file():
        last = ended.stderr.strip().splitlines()[-1:] or ["it wrote no message"]
        raise NumericalError(f"nerfstudio ended with {ended.returncode}: {last[0]}")
