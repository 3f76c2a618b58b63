"""One stage at a time on each GPU.

A slot is a lock on a file that all workers of a machine share. The kernel gives it back in the instant its holder dies, however
it dies; no lease has to run out and no server has to be asked.
"""

import contextlib
import fcntl
import os
import socket
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import IO, Any

from flows.launch import Launch, on_a_pool
from img2mesh.errors import InputError
from img2mesh.manifests import Model
from img2mesh.stage import Result, Stage
from img2mesh.storage import Store

# The other stages work on the processor.
ON_DEVICE = frozenset({"multiview", "coarse_neus", "decode", "refit_neus"})
_POLL_S = 0.05


def devices() -> tuple[str, ...]:
    """Names of the GPUs that this process may use: IMG2MESH_DEVICES, or else CUDA_VISIBLE_DEVICES; none if neither is set."""
    named = os.environ.get("IMG2MESH_DEVICES", os.environ.get("CUDA_VISIBLE_DEVICES", ""))
    return tuple(name for part in named.split(",") if (name := part.strip()) and name != "-1")


@contextlib.contextmanager
def device_slot(names: tuple[str, ...], folder: Path | None = None) -> Iterator[str]:
    """Hold one of the devices, whichever is free first; waits until one is.

    Args:
        names: Of the devices.
        folder: Where the locks are; by default that of IMG2MESH_LOCKS, or one in the system's temporary folder.

    Raises:
        InputError: The folder cannot be used.
    """
    place = folder or Path(os.environ.get("IMG2MESH_LOCKS") or Path(tempfile.gettempdir()) / "img2mesh-devices")
    try:
        place.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as stack:
            locks = {name: stack.enter_context((place / _file_name(name)).open("a")) for name in names}
            held = _first_free(locks)
            os.truncate(locks[held].fileno(), 0)
            locks[held].write(f"{socket.gethostname()} {os.getpid()}\n")
            locks[held].flush()
            yield held
    except PermissionError as error:
        raise InputError(
            f"cannot use {place} for the locks of devices; set IMG2MESH_LOCKS to a folder for all workers"
        ) from error


def on_a_device(launch: Launch) -> Launch:
    """The same launch, which waits for a GPU where a stage wants one and there are any; a pool's workers have their own."""
    if launch is on_a_pool:
        return launch

    def launched(stage: Stage[Any, Any, Any], inputs: Model, params: Model, store: Store) -> Result[Any]:
        names = devices()
        if not names or stage.name not in ON_DEVICE:
            return launch(stage, inputs, params, store)
        found = stage.lookup(inputs, params, store)
        if found is not None:
            return found
        with device_slot(names) as held, _visible(held):
            return launch(stage, inputs, params, store)

    return launched


def _first_free(locks: Mapping[str, IO[str]]) -> str:
    while True:
        for name, file in locks.items():
            with contextlib.suppress(BlockingIOError):
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return name
        time.sleep(_POLL_S)


@contextlib.contextmanager
def _visible(device: str) -> Iterator[None]:
    """A process that is started meanwhile sees this device alone; torch in this one has chosen already."""
    before = os.environ.get("CUDA_VISIBLE_DEVICES")
    os.environ["CUDA_VISIBLE_DEVICES"] = device
    try:
        yield
    finally:
        if before is None:
            del os.environ["CUDA_VISIBLE_DEVICES"]
        else:
            os.environ["CUDA_VISIBLE_DEVICES"] = before


def _file_name(device: str) -> str:
    return "gpu-" + "".join(char if char.isalnum() or char in "-." else "-" for char in device) + ".lock"
