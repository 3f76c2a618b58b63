"""Running the command line as a person does, and looking at what it leaves."""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TIMEOUT_S = 250


@dataclass(frozen=True)
class Ended:
    """How a command ended."""

    code: int
    out: str
    err: str

    def report(self) -> dict[str, Any]:
        """The one JSON document on stdout."""
        report: dict[str, Any] = json.loads(self.out)
        return report


def picture(path: Path, shade: int = 100, side_px: int = 64) -> Path:
    """A disc with alpha; another shade is another picture."""
    image = Image.new("RGBA", (side_px, side_px))
    for x in range(side_px):
        for y in range(side_px):
            if (x - side_px / 2) ** 2 + (y - side_px / 2) ** 2 < (side_px / 3) ** 2:
                image.putpixel((x, y), (shade, (x * 4) % 256, (y * 4) % 256, 255))
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path, "PNG")
    return path


def start(
    *arguments: str | Path, small: bool = True, cwd: Path, settings: Mapping[str, str] | None = None, privileged: bool = True
) -> "subprocess.Popen[str]":
    """Start the command line, over the small stages unless told otherwise, in a group of its own."""
    program = [str(ROOT / "tests" / "small_cli.py")] if small else ["-m", "flows.cli"]
    environment = {name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")}
    environment |= {"PYTHONPATH": str(ROOT), "XDG_CACHE_HOME": str(cwd / "cache"), "COLUMNS": "200", **(settings or {})}
    return subprocess.Popen(
        [*([] if privileged else unprivileged()), sys.executable, *program, *map(str, arguments)],
        cwd=cwd,
        env=environment,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        start_new_session=True,
    )


def unprivileged() -> list[str]:
    """What to put before a command so that permissions hold for it: root, as whom the tests may run, passes them all."""
    return ["setpriv", "--bounding-set=-dac_override,-dac_read_search"] if os.geteuid() == 0 else []


def wait(process: "subprocess.Popen[str]") -> Ended:
    """The command's end; one that does not end is killed with all it has started."""
    try:
        out, err = process.communicate(timeout=TIMEOUT_S)
    except subprocess.TimeoutExpired:
        kill_group(process)
        raise
    return Ended(process.returncode, out, err)


def kill_group(process: "subprocess.Popen[str]") -> None:
    """Kill the command and its children that have not ended yet."""
    if process.poll() is None:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def run(
    *arguments: str | Path, small: bool = True, cwd: Path, settings: Mapping[str, str] | None = None, privileged: bool = True
) -> Ended:
    """Run the command line to its end."""
    return wait(start(*arguments, small=small, cwd=cwd, settings=settings, privileged=privileged))


def kill_at(process: "subprocess.Popen[str]", log: Path, lines: int, pause_s: float) -> None:
    """Kill the command, with no chance to clean up, a moment after so many stages have begun."""
    deadline = time.monotonic() + TIMEOUT_S
    while time.monotonic() < deadline and process.poll() is None:
        if log.exists() and len(log.read_text().splitlines()) >= lines:
            break
        time.sleep(0.01)
    time.sleep(pause_s)
    process.kill()
    process.communicate()


def one_device(folder: Path) -> dict[str, str]:
    """Settings with which the stages take turns on one device."""
    return {"IMG2MESH_DEVICES": "0", "IMG2MESH_LOCKS": str(folder / "locks")}


def free_devices(folder: Path) -> list[str]:
    """The devices that stages have held, and that none holds any more."""
    free = []
    for lock in (folder / "locks").iterdir():
        with lock.open("a") as file, contextlib.suppress(BlockingIOError):
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free.append(lock.stem)
    return free


def contents(assets: Path) -> dict[str, str]:
    """SHA-256 by name of every visible file among the assets; times are left out of the JSON ones."""
    found = {}
    for path in sorted(assets.rglob("*")):
        name = path.relative_to(assets).as_posix()
        if path.is_file() and not any(part.startswith(".") for part in name.split("/")):
            data = path.read_bytes()
            if path.suffix == ".json":
                data = json.dumps(without_times(json.loads(data)), sort_keys=True).encode()
            found[name] = hashlib.sha256(data).hexdigest()
    return found


def without_times(value: Any) -> Any:
    """The document without what differs between two runs that compute the same: seconds, and digests over them."""
    if isinstance(value, dict):
        kept = {key: without_times(item) for key, item in value.items() if key != "seconds"}
        if str(value.get("kind", "")).startswith(("asset/", "batch/")):
            del kept["sha256"]
        return kept
    return [without_times(item) for item in value] if isinstance(value, list) else value


def broken_assets(assets: Path) -> list[str]:
    """Every visible folder that is no whole asset: without its document, or with a file that differs from it."""
    broken = []
    for folder in assets.glob("[!.]*/*/"):
        document = folder / "asset.json"
        if not document.exists():
            broken.append(f"{folder}: no asset.json")
            continue
        for name, blob in json.loads(document.read_bytes())["files"].items():
            file = folder / name
            if not file.exists() or hashlib.sha256(file.read_bytes()).hexdigest() != blob["sha256"]:
                broken.append(str(file))
    return broken
