"""What a person needs to know about the machine before anything fails."""

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import img2mesh
from flows.embedded import is_healthy
from img2mesh.errors import Img2MeshError
from img2mesh.models.home import listed_digests, pulled_home
from img2mesh.storage import open_store

PACKAGES = ("torch", "diffusers", "transformers", "prefect", "open3d", "trimesh", "scikit-image", "xatlas", "boto3", "numpy")
# Of common GPUs.
GPU_MEMORIES_GB = (4, 6, 8, 12, 16, 24, 80)
OPTIONAL = {"pymeshlab": "open3d and trimesh stand in", "rembg": "an OpenCV cut-out stands in"}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that was looked at; `ok` is False where something will not work."""

    what: str
    found: str
    ok: bool = True


def examine(store_uri: str) -> Iterator[Finding]:
    """Look at the packages, the machine, the weights, the store and the Prefect server."""
    yield Finding(what="img2mesh", found=f"{img2mesh.__version__}, Python {platform.python_version()}, {platform.system()}")
    yield from _packages()
    yield _machine()
    yield _gpu()
    yield from _weights()
    yield from _pulled_weights()
    yield _matting()
    yield _store(store_uri)
    yield _server()


def _packages() -> Iterator[Finding]:
    for name in PACKAGES:
        version = _version(name)
        yield Finding(what=name, found=version or "missing: install img2mesh again", ok=version is not None)
    for name, otherwise in OPTIONAL.items():
        yield Finding(what=name, found=_version(name) or f"not installed: {otherwise}")


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _machine() -> Finding:
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    memory_gb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    enough = memory_gb >= 6
    advice = "" if enough else "; the compact preset needs 6 GB"
    return Finding(what="machine", found=f"{cores} cores, {memory_gb:.0f} GB memory{advice}", ok=enough)


def _gpu() -> Finding:
    program = shutil.which("nvidia-smi")
    if program is None:
        return Finding(what="GPU", found="none: computing on the processor")
    query = [program, "--query-gpu=name,memory.total", "--format=csv,noheader"]
    seen = subprocess.run(query, capture_output=True, text=True, timeout=30, check=False).stdout.strip()
    return Finding(what="GPU", found=" / ".join(seen.splitlines()) or "nvidia-smi names none")


def _weights() -> Iterator[Finding]:
    spec = importlib.util.find_spec("img2mesh.weights")
    folders = [Path(place) for place in (spec.submodule_search_locations or ())] if spec else []
    files = sorted(file for folder in folders for file in folder.glob("*.safetensors"))
    if not files:
        yield Finding(what="weights", found="none are installed: install img2mesh again", ok=False)
    listed = {name: digest for folder in folders for digest, name in _listed_digests(folder)}
    for file in files:
        digest = hashlib.sha256(file.read_bytes()).hexdigest()
        whole = listed.get(file.name) == digest
        advice = "" if whole else "; not the digest in SHA256SUMS: install img2mesh again"
        size_mb = file.stat().st_size / 1e6
        yield Finding(what="weights", found=f"{file.name} sha256 {digest[:16]}, {size_mb:.1f} MB{advice}", ok=whole)


def _listed_digests(folder: Path) -> Iterator[tuple[str, str]]:
    listing = folder / "SHA256SUMS"
    for line in listing.read_text(encoding="ascii").splitlines() if listing.exists() else ():
        digest, name = line.split(maxsplit=1)
        yield digest, name.lstrip("*")


def _pulled_weights() -> Iterator[Finding]:
    listed = listed_digests(pulled_home() / "wonder3d")
    if not listed:
        yield Finding(what="preset wonder3d", found="not pulled: `img2mesh models pull wonder3d`")
    for name, digest in listed.items():
        path = pulled_home() / "wonder3d" / name
        # Gigabytes are hashed when they are used, not here.
        found = f"{path.stat().st_size / 1e9:.2f} GB" if path.is_file() else "missing: pull it again"
        yield Finding(what="preset wonder3d", found=f"{name} sha256 {digest[:16]}, {found}", ok=path.is_file())


def measure() -> Iterator[Finding]:
    """Run each part of the full-size preset once, with random weights, in a process of its own; say what it takes here."""
    for part in ("compact", "diffusion-step", "diffusion-step-guided", "plain-decode", "guided-decode"):
        command = [sys.executable, "-m", "img2mesh.models.full_size", part]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode != 0:
            killed = (
                "it needs more memory than there is"
                if done.returncode == -9
                else (done.stderr.strip() or "no reason").splitlines()[-1]
            )
            yield Finding(what=part, found=f"failed: {killed}", ok=False)
            continue
        seen = json.loads(done.stdout.splitlines()[-1])
        memory = f"peak {seen['peak_gb']:.1f} GB of which {seen['working_gb']:.1f} GB not weights"
        where = f"{seen['device']} in {seen['dtype']}"
        found = f"{seen['seconds']:.1f} s, {memory}, {seen['tflop']:.1f} TFLOP, on {where}"
        yield Finding(what=part, found=found, ok=seen["finite"])
    yield from plans()


def plans() -> Iterator[Finding]:
    """How the full-size preset would use GPUs of some sizes, and how it uses this machine."""
    from img2mesh.models.placement import device, plan, plan_gpu

    for memory_gb in GPU_MEMORIES_GB:
        yield Finding(what=f"a GPU of {memory_gb} GB", found=str(plan_gpu(memory_gb, bf16=True)))
    if device() == "cuda":
        yield Finding(what="this GPU", found=str(plan()), ok=plan().fits)


def _matting() -> Finding:
    if importlib.util.find_spec("rembg") is None:
        return Finding(what="matting", found="alpha if there is any, otherwise the OpenCV cut-out (the fallback)")
    return Finding(what="matting", found="alpha if there is any, otherwise rembg when it has a model")


def _store(uri: str) -> Finding:
    try:
        store = open_store(uri)
        store.check()
        return Finding(what="store", found=f"{store.uri}: creates once, reads back, checks")
    except Img2MeshError as error:
        return Finding(what="store", found=str(error), ok=False)
    except OSError as error:
        return Finding(what="store", found=f"{uri}: {(error.strerror or str(error)).lower()}", ok=False)


def _server() -> Finding:
    url = os.environ.get("PREFECT_API_URL")
    if not url:
        return Finding(what="Prefect", found="embedded; PREFECT_API_URL is not set")
    if is_healthy(url):
        return Finding(what="Prefect", found=f"the server at {url} answers")
    return Finding(what="Prefect", found=f"{url} does not answer; start `img2mesh up`, or unset PREFECT_API_URL", ok=False)
