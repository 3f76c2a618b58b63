"""Where a stage runs, by one setting, `--launch` or IMG2MESH_LAUNCH.

    process     in this process, where models stay loaded
    subprocess  in a process of its own, whose memory is given back at its end
    podman      in a container of the images in `containers/`, without network where the store is a folder; or docker
    pool        as a run of the deployment `stage/run`, on the work pool where that is registered

Wherever it runs, the same inputs and parameters give the same publication.
"""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import img2mesh
from flows.reconstruct import weights_in
from img2mesh.errors import ArtifactError, Img2MeshError, InputError, NumericalError, TransientError
from img2mesh.manifests import Model
from img2mesh.models.home import weights_path
from img2mesh.stage import Result, Stage, canonical_json
from img2mesh.storage import FileStore, Store

Launch = Callable[[Stage[Any, Any, Any], Any, Any, Store], Result[Any]]
HOW = ("process", "subprocess", "podman", "docker", "pool")
STAGE_DEPLOYMENT = "stage/run"

# How podman and docker say that it was not the program in the container that failed.
_NOT_STARTED = (125, 126, 127)
_CLASSES: dict[int, type[Img2MeshError]] = {
    error.exit_code: error for error in (InputError, ArtifactError, NumericalError, TransientError)
}


def launcher(how: str) -> Launch:
    """What runs a stage as the setting says.

    Raises:
        InputError: It is none of `HOW`, or what it needs is not there.
    """
    if how not in HOW:
        raise InputError(f"--launch {how!r} is unknown: expected one of {', '.join(HOW)}")
    if how in ("podman", "docker"):
        if shutil.which(how) is None:
            raise InputError(f"--launch {how}: there is no program {how} on this machine; install it, or choose another")
        return partial(in_container, how)
    if how == "pool" and not os.environ.get("PREFECT_API_URL"):
        raise InputError("--launch pool needs a Prefect server with workers; set PREFECT_API_URL")
    return {"process": in_process, "subprocess": in_subprocess, "pool": on_a_pool}[how]


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
    return _alone(
        stage, inputs, params, store, lambda folder: [sys.executable, "-m", *_arguments(stage, store, folder, folder)]
    )


def in_container(engine: str, stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Result[Any]:
    """The stage's result, found here or computed in a container.

    Raises:
        Img2MeshError: What the stage raised there, or TransientError where the container cannot be started.
    """

    def command(folder: Path) -> list[str]:
        # Whoever owns the store's folder may read what is handed over.
        folder.chmod(0o755)
        options = [*_confined(engine, store), *_mounts(folder, store, params), *_passed_on(store)]
        inside = _arguments(stage, store, Path("/exchange"), Path("/tmp"))  # noqa: S108 - the container's
        return [engine, "run", *options, image_of(stage.name, params), *inside]

    return _alone(stage, inputs, params, store, command)


def image_of(stage: str, params: Model) -> str:
    """The image that has the stage; IMG2MESH_REGISTRY is put before its name."""
    method = getattr(getattr(params, "fit", None), "method", "native")
    family = "mesh" if stage == "export_mesh" else "torch" if method == "native" else "nerfstudio"
    return f"{os.environ.get('IMG2MESH_REGISTRY', '')}img2mesh-{family}:{img2mesh.__version__}"


def _confined(engine: str, store: Store) -> Iterator[str]:
    """No rights, nothing that can be written but /tmp, no network that it does not need, no GPU but the one held."""
    yield from ("--rm", "--read-only", "--tmpfs=/tmp", "--env=HOME=/tmp", "--cap-drop=all", "--security-opt=no-new-privileges")
    file = os.environ.get("AWS_SHARED_CREDENTIALS_FILE")
    if isinstance(store, FileStore) or file:
        # Nobody else may write the one or read the other.
        owner = (store.root if isinstance(store, FileStore) else Path(file or "")).stat()
        yield f"--user={owner.st_uid}:{owner.st_gid}"
    if isinstance(store, FileStore):
        yield "--network=none"
    elif network := os.environ.get("IMG2MESH_NETWORK"):
        yield f"--network={network}"
    if device := os.environ.get("CUDA_VISIBLE_DEVICES"):
        yield f"--gpus=device={device}" if engine == "docker" else f"--device=nvidia.com/gpu={device}"


def _mounts(folder: Path, store: Store, params: Model) -> Iterator[str]:
    """The manifests handed over, the store if it is a folder, and each of the weights, whose digest the stage checks."""
    yield f"--volume={folder}:/exchange:ro"
    if isinstance(store, FileStore):
        yield f"--volume={store.root}:{store.root}"
    for weights in weights_in(params):
        with contextlib.suppress(ArtifactError):  # the stage says better what it misses
            yield f"--volume={weights_path(weights.name)}:/weights/{weights.name}.safetensors:ro"


def _passed_on(store: Store) -> Iterator[str]:
    """Settings by name, so that no secret is on a command line."""
    wanted = {"OMP_NUM_THREADS"}
    if not isinstance(store, FileStore):
        wanted |= {name for name in os.environ if name.startswith(("AWS_", "IMG2MESH_WORK_"))}
        if file := os.environ.get("AWS_SHARED_CREDENTIALS_FILE"):
            yield f"--volume={Path(file).absolute()}:{file}:ro"
    yield from (f"--env={name}" for name in sorted(wanted & set(os.environ)))


def on_a_pool(stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Result[Any]:
    """The stage's result, found here or computed by a worker, as a run of `stage/run`.

    Raises:
        Img2MeshError: What the stage raised there; TransientError where its run crashed or was cancelled.
    """
    found = stage.lookup(inputs, params, store)
    if found is not None:
        return found
    from prefect.deployments import run_deployment

    plain = {"inputs": inputs.model_dump(mode="json"), "params": params.model_dump(mode="json")}
    run: Any = run_deployment(
        STAGE_DEPLOYMENT,
        parameters={"name": stage.name, **plain, "store": store.uri},
        flow_run_name=stage.name,
        poll_interval=1,
    )
    message = str(run.state.message)
    if not run.state.is_completed():
        named = {kind.__name__: kind for kind in _CLASSES.values()}
        raise named.get(run.state.name, TransientError if not run.state.is_failed() else RuntimeError)(message)
    return _made(stage, inputs, params, store)


def _alone(
    stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store, command: Callable[[Path], Sequence[str]]
) -> Result[Any]:
    """The result, found or made by the command that is told where the manifests are."""
    found = stage.lookup(inputs, params, store)
    if found is not None:
        return found
    with tempfile.TemporaryDirectory(prefix="img2mesh-") as name:
        folder = Path(name)
        (folder / "in.json").write_bytes(canonical_json(inputs))
        (folder / "params.json").write_bytes(canonical_json(params))
        ended = subprocess.run(
            command(folder), env=environment(), capture_output=True, text=True, errors="replace", check=False
        )
    if ended.returncode != 0:
        raise _error_of(stage.name, ended.returncode, ended.stderr)
    return _made(stage, inputs, params, store)


def _arguments(stage: Stage[Any, Any, Any], store: Store, given: Path, written: Path) -> list[str]:
    files = {"--in": given / "in.json", "--params": given / "params.json", "--out": written / "out.json"}
    place = str(store.root) if isinstance(store, FileStore) else store.uri
    return [f"stages.{stage.name}", "--store", place, *(part for option, path in files.items() for part in (option, str(path)))]


def _made(stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Result[Any]:
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
    if code in _NOT_STARTED:
        return TransientError(f"{stage} could not be started in its container ({last}); `make images` builds the images")
    kind = _CLASSES.get(code)
    return RuntimeError(f"{stage} ended with {code}: {last}") if kind is None else kind(last.removeprefix(f"{stage}: "))
