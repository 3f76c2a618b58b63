"""From a training run to the weights that the package carries."""

import shutil
from pathlib import Path

from img2mesh.errors import InputError
from img2mesh.models.checkpoint import SHIPPED, digest


def ship_run(run: Path, target: Path = SHIPPED) -> str:
    """Copy a run's weights, settings and log, and pin the digest in `SHA256SUMS`.

    Of a first guess settings and log alone: its weights are part of the generator's.

    Args:
        run: Folder that `img2mesh train` wrote; holds one `<name>.safetensors` beside the checkpoint.
        target: Folder of the shipped weights.

    Returns:
        Name of the weights.

    Raises:
        InputError: The folder holds no weights.
    """
    weights = [path for path in run.glob("*.safetensors") if path.stem not in ("checkpoint", "shrunk")]
    if len(weights) != 1:
        raise InputError(f"expected one weights file in {run}, found {len(weights)}: give the folder of a finished run")
    [source] = weights
    (target / "training").mkdir(exist_ok=True)
    if source.stem != "regressor":
        shutil.copyfile(source, target / source.name)
    # A run of fewer steps than a report has no log.
    for record in filter(Path.is_file, (run / "settings.json", run / "log.jsonl")):
        shutil.copyfile(record, target / "training" / f"{source.stem}.{record.name}")
    lines = [f"{digest(path)}  {path.name}\n" for path in sorted(target.glob("*.safetensors"))]
    (target / "SHA256SUMS").write_text("".join(lines), encoding="ascii")
    return source.stem
