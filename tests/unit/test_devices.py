"""A device is held by one stage at a time, and is free in the instant its holder dies."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from flows.devices import device_slot, devices, on_a_device
from flows.launch import environment, in_process
from img2mesh.manifests import SourceImage
from img2mesh.storage import open_store
from tests.small_cli import STEPS

HOLD = """
import sys, time
from pathlib import Path
from flows.devices import device_slot
with device_slot(("0",), Path(sys.argv[1])):
    print("held", flush=True)
    time.sleep(600)
"""


def test_devices_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("IMG2MESH_DEVICES", raising=False)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert devices() == ()
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0, GPU-aa/bb")
    assert devices() == ("0", "GPU-aa/bb")
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "-1")
    assert devices() == ()
    monkeypatch.setenv("IMG2MESH_DEVICES", "1")
    assert devices() == ("1",)


def test_each_device_has_one_holder(tmp_path: Path) -> None:
    held: list[str] = []
    most: list[int] = []
    guard = threading.Lock()

    def work() -> None:
        with device_slot(("0", "1"), tmp_path) as device:
            with guard:
                held.append(device)
                most.append(len(held))
                assert len(set(held)) == len(held)
            time.sleep(0.01)
            with guard:
                held.remove(device)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (max(most), len(most)) == (2, 8)


def test_a_killed_holder_s_device_is_free_at_once(tmp_path: Path) -> None:
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(tmp_path)], env=environment(), stdout=subprocess.PIPE, text=True)
    assert holder.stdout is not None
    assert holder.stdout.readline() == "held\n"
    assert str(holder.pid) in (tmp_path / "gpu-0.lock").read_text()
    free = threading.Event()

    def wait_for_it() -> None:
        with device_slot(("0",), tmp_path):
            free.set()

    waiting = threading.Thread(target=wait_for_it)
    waiting.start()
    assert not free.wait(0.3)
    holder.send_signal(signal.SIGKILL)
    holder.communicate()
    assert free.wait(30)
    waiting.join()


def test_only_stages_that_want_one_wait_for_a_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMG2MESH_LOCKS", str(tmp_path / "locks"))
    monkeypatch.setenv("IMG2MESH_DEVICES", "3")
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    store = open_store(str(tmp_path / "store"))
    seen: list[tuple[str, str | None]] = []

    def launch(stage, inputs, params, store):  # type: ignore[no-untyped-def]
        seen.append((stage.name, os.environ.get("CUDA_VISIBLE_DEVICES")))
        return in_process(stage, inputs, params, store)

    from tests.command import picture

    data = picture(tmp_path / "owl.png").read_bytes()
    value = SourceImage(name="owl.png", image=store.put_blob(data, "image/png"))
    for stage, params in STEPS[:2]:
        value = on_a_device(launch)(stage, value, params, store).outputs
    assert seen == [("prepare", None), ("multiview", "3")]
