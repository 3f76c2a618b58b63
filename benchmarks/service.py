"""What orchestration and storage cost: `python -m benchmarks.service [PART...]`.

Parts, with small stages that compute nothing: cached (a batch of 1,000 images that is done already), stages (cost per stage
through Prefect's flows), memory (of a worker over 1,000 images), workers (1, 2 and 4 workers on sleeping stages), requests
(what an image asks of the store). With the real stages of the preset tiny: share (of orchestration and storage in a batch).
Without a part, all but memory and share, which take minutes.
"""

import argparse
import contextlib
import ctypes
import gc
import os
import resource
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import cycle, islice, pairwise
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

import httpx
import pytest
from command import ROOT, picture, start, wait
from small_cli import in_a_loop, steps

from flows.embedded import prefect_api
from flows.options import pipeline_of
from flows.reconstruct import Event
from flows.submit import Report, Request, submit
from img2mesh import storage

STAGES = 6


@contextlib.contextmanager
def measured() -> Iterator[Callable[[], float]]:
    start_s = time.perf_counter()
    yield lambda: time.perf_counter() - start_s


def inbox(folder: Path, images: int) -> Path:
    """Pictures that differ: one drawn, the others with another end, which decoders leave alone."""
    first = picture(folder / "in/00000.png").read_bytes()
    for number in range(1, images):
        (folder / f"in/{number:05}.png").write_bytes(first + number.to_bytes(4, "big"))
    return folder / "in"


def submitted(folder: Path, images: Path, **options: Any) -> Report:
    return submit(Request.of([str(images)], assets=str(folder / "assets")), steps(seed=0), **options)


def peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def cached(images: int) -> None:
    """A batch that is done already."""
    with tempfile.TemporaryDirectory() as name:
        folder, pictures = Path(name), inbox(Path(name), images)
        with pytest.MonkeyPatch.context() as patch:
            # The first run is not what is measured here: it need not wait for the disk.
            patch.setattr(os, "fsync", lambda descriptor: None)
            submitted(folder, pictures, run_pending=in_a_loop)
            print(f"after the first run of {images} images, {peak_mb():.0f} MB")
        before_s = time.process_time()
        with measured() as seconds:
            report = submitted(folder, pictures)
            taken = seconds()
        cpu_s = time.process_time() - before_s
        assert (report.count("published"), report.stages(cached=False)) == (images, 0)
        print(f"cached re-run of {images} images               {taken:8.2f} s ({cpu_s:.2f} s computing), {peak_mb():.0f} MB")


def stages(images: int) -> None:
    """Cost per stage of the flows, the server and the store together: the stages themselves take nothing."""
    with tempfile.TemporaryDirectory() as name:
        folder, pictures = Path(name), inbox(Path(name), images)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        with prefect_api() as wait_for_server:
            from flows.batch import run_as_flow

            wait_for_server()
            warm = inbox(folder / "warm", 2)
            submitted(folder, warm, run_pending=run_as_flow)
            before_mb, asked = peak_mb(), Counter[str]()
            for client in (httpx.Client, httpx.AsyncClient):
                _count(client, "send", asked)
            before_s = processor_s()
            with measured() as seconds:
                submitted(folder, pictures, run_pending=run_as_flow)
                taken = seconds()
            here, there = (
                1000 * (after - before) / images / STAGES for before, after in zip(before_s, processor_s(), strict=True)
            )
        per_stage_ms = 1000 * taken / images / STAGES
        print(f"{images} images of {STAGES} stages through Prefect      {per_stage_ms:8.1f} ms a stage (limit 50)")
        print(f"of that, computing: {here:.1f} ms in this process, {there:.1f} ms in the server")
        print(f"requests to Prefect's API for an image          {asked['send'] / images:8.1f} (events go through one socket)")
        print(f"memory of the worker: {before_mb:.0f} MB after 2 images, {peak_mb():.0f} MB after {images}")
        with measured() as seconds:
            submitted(folder / "plain", pictures, run_pending=in_a_loop)
            print(f"the same without Prefect                   {1000 * seconds() / images / STAGES:8.1f} ms a stage")


@dataclass
class Spent:
    """Seconds in some functions, by the clock and of this process's and its ended children's processors.

    What such a function calls of its own kind counts once.
    """

    clock_s: float = 0.0
    processor_s: float = 0.0
    running: bool = False

    def within(self, called: Callable[..., Any], during: "Spent | None" = None) -> Callable[..., Any]:
        """The same function, watched; where `during` is given, only while that one's functions run."""

        def watched(*args: Any, **options: Any) -> Any:
            if self.running or (during is not None and not during.running):
                return called(*args, **options)
            self.running, clock_s, used_s = True, time.perf_counter(), own_processor_s()
            try:
                return called(*args, **options)
            finally:
                self.running = False
                self.clock_s += time.perf_counter() - clock_s
                self.processor_s += own_processor_s() - used_s

        return watched


def own_processor_s() -> float:
    ended = resource.getrusage(resource.RUSAGE_CHILDREN)
    return time.process_time() + ended.ru_utime + ended.ru_stime


def share(images: int, preset: str) -> None:
    """What orchestration and storage add to the real stages, which run in this process, through Prefect's flows."""
    with tempfile.TemporaryDirectory() as name, pytest.MonkeyPatch.context() as patch:
        folder = Path(name)
        patch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
        working, storing = Spent(), Spent()
        with prefect_api() as wait_for_server:
            from flows.batch import run_as_flow

            def reconstructed(pictures: Path) -> None:
                request = Request.of([str(pictures)], assets=str(folder / "assets"), preset=preset)
                watched = [(replace(stage, run=working.within(stage.run)), params) for stage, params in pipeline_of(request)]
                assert submit(request, watched, run_pending=run_as_flow).count("published") == len(list(pictures.iterdir()))

            wait_for_server()
            # The first image loads the models.
            reconstructed(photographs(folder / "warm", 1))
            for method in ("read", "create", "write", "size", "delete", "update"):
                patch.setattr(storage.FileStore, method, storing.within(getattr(storage.FileStore, method), during=working))
            pictures = photographs(folder / "in", images, first=1)
            working.clock_s = working.processor_s = 0.0
            before_s, ended_s = processor_s(), own_processor_s()
            with measured() as seconds:
                reconstructed(pictures)
                taken_s = seconds()
            own_s, server_s = own_processor_s() - ended_s, processor_s()[1] - before_s[1]
    work_s, work_processor_s = working.clock_s - storing.clock_s, working.processor_s - storing.processor_s
    print(f"{images} images of the preset {preset}: {taken_s:.1f} s, {work_s / images:.2f} s an image in its {STAGES} stages")
    for what, rest_s, whole_s in (
        ("by the clock", taken_s - work_s, work_s),
        ("of processors, the server's with it", own_s + server_s - work_processor_s, work_processor_s),
    ):
        per_stage_ms = 1000 * rest_s / images / STAGES
        print(f"  the rest {what}: {per_stage_ms:.1f} ms a stage (limit 50), {rest_s / whole_s:.2%} of the stages' (limit 5%)")
    print(f"  of it the stages' own calls of the store: {1000 * storing.clock_s / images / STAGES:.1f} ms a stage by the clock")


def photographs(folder: Path, images: int, first: int = 0) -> Path:
    """The example pictures in turn, each with an end of its own, which decoders leave alone and no stage has seen."""
    folder.mkdir(parents=True)
    shown = sorted((ROOT / "examples/images").iterdir())
    for number, file in enumerate(islice(cycle(shown), first, first + images)):
        (folder / f"{number:05}{file.suffix}").write_bytes(file.read_bytes() + (first + number).to_bytes(4, "big"))
    return folder


def processor_s() -> tuple[float, float]:
    """Processor time of this process, and of the server that it has started."""
    children = 0
    for place in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            fields = place.read_text().rpartition(")")[2].split()
            if int(fields[1]) == os.getpid():
                children += int(fields[11]) + int(fields[12])
    return time.process_time(), children / os.sysconf("SC_CLK_TCK")


def memory(images: int) -> None:
    """What a worker holds after every hundredth image and how long each hundred took; then, what is left when asked for it."""
    held, at_s = list[float](), list[float]()

    def look(event: Event) -> None:
        if (event.stage, event.phase) == ("export_mesh", "done"):
            held.append(resident_mb())
            at_s.append(time.perf_counter())

    with tempfile.TemporaryDirectory() as name:
        folder, pictures = Path(name), inbox(Path(name), images)
        os.environ["XDG_CACHE_HOME"] = str(folder / "cache")
        with prefect_api() as wait_for_server:
            from flows.batch import run_as_flow

            wait_for_server()
            submitted(folder, pictures, run_pending=run_as_flow, listen=look)
            print("MB after each hundredth image: " + " ".join(f"{mb:.0f}" for mb in held[99::100]))
            hundreds = [end - begin for begin, end in pairwise(at_s[::100])]
            print("ms a stage in each hundred: " + " ".join(f"{1000 * taken / 100 / STAGES:.0f}" for taken in hundreds))
            gc.collect()
            ctypes.CDLL(None).malloc_trim(0)
            print(f"after the batch {resident_mb():.0f} MB, of which Python's objects are counted: {len(gc.get_objects())}")


def resident_mb() -> float:
    return int(Path("/proc/self/statm").read_text().split()[1]) * resource.getpagesize() / 1024**2


def workers(images: int, delay_s: float) -> None:
    """Several workers on one batch of sleeping stages, so many images for each; claims divide it between them.

    Throughput is taken while all of them are at work: starting a process with Prefect takes seconds of a whole core.
    """
    alone = 0.0
    for count in (1, 2, 4):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            inbox(folder, images * count)
            settings = {"SMALL_DELAY_S": str(delay_s), "SMALL_LOG": str(folder / "log")}
            with measured() as seconds:
                started = [start("submit", "in", cwd=folder, settings=settings) for _ in range(count)]
                rate = _stages_per_s(folder, count, images * count * STAGES)
                ended = [wait(one) for one in started]
                taken = seconds()
            assert {one.code for one in ended} == {0}, ended[0].err
            times = max(Counter((folder / "log").read_text().splitlines()).values())
        alone = alone or rate
        print(
            f"{count} workers, {images * count} images: {rate:.2f} stages/s, {rate / count / alone:.2f} of linear,"
            f" {rate * delay_s / count:.2f} of their time asleep; {taken:.1f} s in all, each stage at most {times} times"
        )


def _stages_per_s(folder: Path, workers: int, stages: int) -> float:
    """From when each worker has an image until the first may have none."""
    log, claims = folder / "log", folder / "assets/.store/claims"
    while not log.exists() or len(list(claims.iterdir())) < workers:
        time.sleep(0.02)
    first, first_s = len(log.read_text().splitlines()), time.perf_counter()
    while (now := len(log.read_text().splitlines())) < stages - STAGES * workers:
        time.sleep(0.02)
    return (now - first) / (time.perf_counter() - first_s)


def requests(images: int) -> None:
    """Calls of the store for each image: computed, and found done."""
    counts: Counter[str] = Counter()
    for method in ("read", "create", "write", "size", "delete", "update", "list"):
        _count(storage.FileStore, method, counts)
    with tempfile.TemporaryDirectory() as name:
        folder, pictures = Path(name), inbox(Path(name), images)
        for what in ("computed", "found done"):
            counts.clear()
            submitted(folder, pictures, run_pending=in_a_loop)
            shown = ", ".join(f"{method} {count / images:.1f}" for method, count in sorted(counts.items()))
            print(f"calls of the store for an image {what}: {sum(counts.values()) / images:.1f} ({shown})")


def _count(kind: type[Any], method: str, counts: Counter[str]) -> None:
    original = getattr(kind, method)

    def counted(self: Any, *args: Any, **options: Any) -> Any:
        counts[method] += 1
        return original(self, *args, **options)

    setattr(kind, method, counted)


def main() -> None:
    """Run the parts asked for."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", choices=["cached", "stages", "memory", "workers", "requests", "share", []])
    parser.add_argument("--images", type=int, default=1000, help="of the batches `cached`, `memory` and `share`")
    parser.add_argument("--preset", default="tiny", help="of `share`")
    options = parser.parse_args()
    wanted = options.parts or ["cached", "stages", "workers", "requests"]
    if "cached" in wanted:
        cached(options.images)
    if "stages" in wanted:
        stages(40)
    if "memory" in wanted:
        memory(options.images)
    if "workers" in wanted:
        workers(10, 0.5)
    if "requests" in wanted:
        requests(20)
    if "share" in wanted:
        share(options.images, options.preset)


if __name__ == "__main__":
    main()
