"""Images of this checkout, built with podman over a bare Debian: no image registry is asked for anything."""

import functools
import os
import shutil
import subprocess
import tarfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import img2mesh

ROOT = Path(__file__).parents[2]
CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
BASE = "localhost/img2mesh-base:bookworm"
NOBODY_SPECIAL = 10001
PROGRAMS = ("podman", "runc", "debootstrap")
SETTINGS = """[containers]
default_ulimits = ["nofile=20000:20000", "nproc=4096:4096"]
[engine]
cgroup_manager = "cgroupfs"
events_logger = "file"
runtime = "runc"
compat_api_enforce_docker_hub = false
"""


def podman(*arguments: str, check: bool = True) -> "subprocess.CompletedProcess[str]":
    """Run podman to its end."""
    ended = subprocess.run(["podman", *arguments], capture_output=True, text=True, check=False)
    assert not check or ended.returncode == 0, f"{arguments}: {ended.stdout[-1500:]}{ended.stderr[-1500:]}"
    return ended


@pytest.fixture(scope="session")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Podman with runc, which needs no daemon."""
    missing = [name for name in PROGRAMS if shutil.which(name) is None]
    if os.geteuid() != 0:
        missing.append("root")
    if missing and not os.environ.get("IMG2MESH_TEST_ALL"):
        pytest.skip(f"images cannot be built here without {', '.join(missing)}")
    assert missing == []
    settings = tmp_path_factory.mktemp("podman") / "containers.conf"
    settings.write_text(SETTINGS)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("CONTAINERS_CONF", str(settings))
        yield


@pytest.fixture(scope="session")
def base(engine: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A minimal Debian."""
    if podman("image", "exists", BASE, check=False).returncode == 0:
        return BASE
    folder = tmp_path_factory.mktemp("base")
    packages = "ca-certificates,python3,python3-venv"
    subprocess.run(
        ["debootstrap", "--variant=minbase", f"--include={packages}", "bookworm", str(folder / "root")],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    for package in (folder / "root/var/cache/apt/archives").glob("*.deb"):
        package.unlink()
    with tarfile.open(folder / "root.tar", "w") as archive:
        archive.add(folder / "root", arcname=".")
    shutil.rmtree(folder / "root")
    podman("import", str(folder / "root.tar"), BASE)
    (folder / "root.tar").unlink()
    return BASE


@pytest.fixture(scope="session")
def image(base: str) -> Callable[[str], str]:
    """Builds a family's image and gives its name; layers that are there already are used."""
    # A build trusts whom this machine trusts, and finds the wheels that this machine has.
    torch_flags, options = os.environ.get("TORCH_FLAGS", ""), [f"--volume={CERTIFICATES}:{CERTIFICATES}:ro"]
    if wheels := os.environ.get("PIP_FIND_LINKS"):
        torch_flags = f"--find-links {wheels} {torch_flags}".strip()
        options.append(f"--volume={wheels}:{wheels}:ro")

    @functools.cache
    def build(family: str) -> str:
        name = f"img2mesh-{family}:{img2mesh.__version__}"
        arguments = {"BASE": base, "VERSION": img2mesh.__version__, "TORCH_FLAGS": torch_flags}
        options_of_build = [*options, *(f"--build-arg={key}={value}" for key, value in arguments.items()), f"--tag={name}"]
        file = ROOT / "containers" / f"Dockerfile.{family}"
        podman("build", "--layers", "--network=host", *options_of_build, f"--file={file}", str(ROOT))
        return name

    return build


def owned(folder: Path) -> None:
    """Give the store to the images' user, who is another than the one of this machine that asks."""
    for path in (folder, *folder.rglob("*")):
        os.chown(path, NOBODY_SPECIAL, NOBODY_SPECIAL)


@pytest.fixture
def one_thread(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Sums of several threads differ in the last digit from those of one; torch may have been started before."""
    import torch

    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def podman_socket(folder: Path) -> Iterator[Path]:
    """The API that compose speaks, served by podman."""
    socket = folder / "podman.sock"
    with (folder / "podman.log").open("wb") as log:
        service = subprocess.Popen(["podman", "system", "service", "--time=0", f"unix://{socket}"], stdout=log, stderr=log)
        try:
            deadline = time.monotonic() + 60
            while not socket.exists():
                assert time.monotonic() < deadline
                time.sleep(0.1)
            yield socket
        finally:
            service.terminate()
            service.wait()
