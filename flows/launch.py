"""Where a stage runs: in this process, where models stay loaded, or in one of its own, whose memory is given back at its end.

Either way the same inputs and parameters give the same publication.
"""

import os
import subprocess
import sys
import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from img2mesh.errors import ArtifactError, Img2MeshError, InputError, NumericalError, TransientError
from img2mesh.manifests import Model
from img2mesh.stage import Result, Stage, canonical_json
from img2mesh.storage import Store

Launch = Callable[[Stage[Any, Any, Any], Any, Any, Store], Result[Any]]

_CLASSES: dict[int, type[Img2MeshError]] = {
    error.exit_code: error for error in (InputError, ArtifactError, NumericalError, TransientError)
}


def in_process(stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Result[Any]:
    """The stage's result, found or computed here.

    Raises:
        Img2MeshError: What the stage raised.
    """
    return stage.result(inputs, params, store)


def in_subprocess(stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Result[Any]:
    """The stage's result, found here or computed by `python -m stages.NAME`.

    Raises:
        Img2MeshError: What the stage raised there, by its exit code and the last line it wrote.
    """
    found = stage.lookup(inputs, params, store)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="img2mesh-") as name:
        folder = Path(name)
        files = {"--in": folder / "in.json", "--params": folder / "params.json", "--out": folder / "out.json"}
        files["--in"].write_bytes(canonical_json(inputs))
        files["--params"].write_bytes(canonical_json(params))
        options = [part for option, path in files.items() for part in (option, str(path))]
        command = [sys.executable, "-m", f"stages.{stage.name}", "--store", store.uri, *options]
        ended = subprocess.run(command, env=environment(), capture_output=True, text=True, errors="replace", check=False)
    if ended.returncode != 0:
        raise _error_of(stage.name, ended.returncode, ended.stderr)
    made = stage.lookup(inputs, params, store)
    if made is None:
        raise ArtifactError(f"{stage.name} ended well, but what it published in {store.uri} is not whole; submit again")
    return replace(made, cached=False)


def environment() -> dict[str, str]:
    """The environment for a Python of our own: it finds this code, installed or not."""
    code = str(Path(__file__).resolve().parent.parent)
    return {**os.environ, "PYTHONPATH": os.pathsep.join([code, *filter(None, [os.environ.get("PYTHONPATH")])])}


def _error_of(stage: str, code: int, written: str) -> Exception:
    last = written.strip().splitlines()[-1] if written.strip() else "it wrote no message"
    if code < 0:
        return TransientError(f"{stage} was killed by signal {-code}, perhaps for want of memory; submit again")
    kind = _CLASSES.get(code)
    return RuntimeError(f"{stage} ended with {code}: {last}") if kind is None else kind(last.removeprefix(f"{stage}: "))
