"""What the service takes of its servers, and what that means at scale: `python -m benchmarks.scale measure|simulate`.

`measure` runs a batch of small stages through Prefect on PostgreSQL and SeaweedFS, counts requests, and takes the processor
time of each server from the kernel, which other work on the machine hardly changes. `simulate` lets 100 workers with those
requests meet servers of those speeds, event by event, for half an hour of the day.
"""

import argparse
import contextlib
import heapq
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
# Some packages install one of this name; the tests' own has no __init__ and would come second.
sys.modules["tests"] = ModuleType("tests")
sys.modules["tests"].__path__ = [str(ROOT / "tests")]

# What `measure` has printed: requests of one image, and milliseconds of one core for each, on a machine with nothing else on.
MEASURED = {
    "store_writes": 23.4,
    "store_reads": 24.2,
    "store_found_reads": 19.6,
    "prefect_requests": 9.7,
    "prefect_events": 22.0,
    "store_ms": 1.19,
    "prefect_ms": 15.27,
    "database_ms": 1.86,
}
# Shares of an image's time: prepare, multiview, coarse_neus, decode, refit_neus, export_mesh.
SHARES = (0.02, 0.25, 0.25, 0.13, 0.25, 0.10)
DAY_S = 86_400
# Cores of the store, and Prefect servers, that are tried.
SERVERS = ((2, 1), (2, 2), (2, 3), (2, 4), (1, 3))


def measure(images: int) -> None:
    """Print the counts and the processor times as JSON."""
    import httpx

    from benchmarks.service import _count, inbox
    from flows.submit import Request, submit
    from img2mesh.s3 import S3Store
    from tests.faults.test_database import Postgres
    from tests.integration.conftest import running_weed
    from tests.small_cli import in_a_loop, steps

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        (folder / "postgres").mkdir()
        database = Postgres(folder / "postgres")
        with running_weed(folder) as weed, _prefect(database.url, folder) as server:
            os.environ |= weed.settings
            from flows.batch import run_as_flow

            def run(pictures: Path, assets: str, pending: object) -> None:
                request = Request.of([str(pictures)], assets=f"s3://tests/{assets}")
                assert submit(request, steps(seed=0), run_pending=pending).exit_code == 0  # type: ignore[arg-type]

            run(inbox(folder / "warm", 3), "warm", run_as_flow)
            asked: Counter[str] = Counter()
            for client in (httpx.Client, httpx.AsyncClient):
                _count(client, "send", asked)
            stored = _count_by_kind(S3Store)
            pictures = inbox(folder, images)
            groups = (weed.pid, server, database.process.pid)
            start_s, before = time.monotonic(), [_cpu_s(group) for group in groups]
            run(pictures, "measured", run_as_flow)
            time.sleep(10)  # events are written in batches
            ended_s, after = time.monotonic(), [_cpu_s(group) for group in groups]
            # What they take while nothing is asked of them is no request's.
            time.sleep(20)
            idle = [(_cpu_s(group) - one) / (time.monotonic() - ended_s) for group, one in zip(groups, after, strict=True)]
            taken_s = [late - early - rate * (ended_s - start_s) for early, late, rate in zip(before, after, idle, strict=True)]
            print("idle, shares of a core:", [round(rate, 3) for rate in idle], file=sys.stderr)
            computed, events = dict(stored), _events()
            stored.clear()
            run(pictures, "measured", in_a_loop)
        database.kill()
    store_requests = sum(computed.values()) / images
    print(
        json.dumps(
            {
                "store_writes": round((computed["write"] + computed["delete"]) / images, 1),
                "store_reads": round(store_requests - (computed["write"] + computed["delete"]) / images, 1),
                "store_found_reads": round(sum(stored.values()) / images, 1),
                "prefect_requests": round(asked["send"] / images, 1),
                "prefect_events": round(events / (images + 3), 1),
                "store_ms": round(1000 * taken_s[0] / images / store_requests, 2),
                "prefect_ms": round(1000 * taken_s[1] / asked["send"], 2),
                "database_ms": round(1000 * taken_s[2] / asked["send"], 2),
            },
            indent=1,
        )
    )


@contextlib.contextmanager
def _prefect(database: str, folder: Path) -> Iterator[int]:
    """Prefect's server on a database; gives its process group."""
    from flows.embedded import RECORDING, quiet_environment
    from tests.integration.conftest import free_ports, wait_until_it_answers

    quiet_environment()
    (port,) = free_ports(1)
    os.environ["PREFECT_API_URL"] = f"http://127.0.0.1:{port}/api"
    quiet = {"PREFECT_HOME": str(folder / "prefect"), "DO_NOT_TRACK": "1", "PREFECT_UI_ENABLED": "0", **RECORDING}
    os.environ |= quiet
    with (folder / "server.log").open("wb") as log:
        server = subprocess.Popen(
            [sys.executable, "-m", "prefect", "server", "start", "--port", str(port)],
            env={**os.environ, "PREFECT_API_DATABASE_CONNECTION_URL": database},
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        wait_until_it_answers(f"{os.environ['PREFECT_API_URL']}/health", server, folder / "server.log")
        yield server.pid
    finally:
        os.killpg(server.pid, 9)
        server.wait()


def _cpu_s(leader: int) -> float:
    """Processor time of a process and of those that it has started."""
    ticks = 0
    for place in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            fields = (place / "stat").read_text().rpartition(")")[2].split()
            if leader in (int(place.name), int(fields[1]), int(fields[2])):
                ticks += sum(int(field) for field in fields[11:15])
    return ticks / os.sysconf("SC_CLK_TCK")


def _count_by_kind(store: type) -> Counter[str]:
    counts: Counter[str] = Counter()
    once = getattr(store, "_once")  # noqa: B009 - every request goes through it, repeated ones too

    def counted(self: object, doing: str, call: object, *, absent: object) -> object:
        counts[doing.split(maxsplit=1)[0]] += 1
        return once(self, doing, call, absent=absent)

    setattr(store, "_once", counted)  # noqa: B010
    return counts


def _events() -> int:
    import httpx

    answer = httpx.post(f"{os.environ['PREFECT_API_URL']}/events/filter", json={"limit": 1}, timeout=60)
    return int(answer.json()["total"])


class Server:
    """Requests wait their turn for one of so many cores."""

    def __init__(self, cores: int) -> None:
        self._free_s = [0.0] * cores
        self.busy_s = 0.0
        self.waits_s: list[float] = []

    def serve(self, now_s: float, service_s: float) -> float:
        """When the answer is there."""
        start_s = max(now_s, heapq.heappop(self._free_s))
        heapq.heappush(self._free_s, start_s + service_s)
        self.busy_s += service_s
        self.waits_s.append(start_s - now_s)
        return start_s + service_s


def simulate(seen: dict[str, float], *, gpus: int, per_day: float, store_cores: int, prefect_cores: int) -> dict[str, float]:
    """How a fleet does that is just large enough for the day's images.

    Args:
        seen: What `measure` prints.
        gpus: Each with a worker of its own.
        per_day: Images a day that the GPUs could do if nothing else took time.
        store_cores: Of the store's servers, all together.
        prefect_cores: Of Prefect's servers, each of which uses one.
    """
    chance, span_s = random.Random(0), 1800.0
    store, prefect = Server(store_cores), Server(prefect_cores)
    image_s = gpus * DAY_S / per_day
    stages = len(SHARES)
    # Events need no answer; what they cost the server is in `prefect_ms`.
    asks = [("store", (seen["store_writes"] + seen["store_reads"]) / stages), ("prefect", seen["prefect_requests"] / stages)]
    speeds = {"store": seen["store_ms"] / 1000, "prefect": seen["prefect_ms"] / 1000}

    def worker() -> Iterator[tuple[str, float]]:
        while True:
            for share in SHARES:
                for kind, count in asks:
                    whole = int(count) + (chance.random() < count % 1)
                    yield from ((kind, speeds[kind] * chance.expovariate(1.0)) for _ in range(whole))
                yield "work", image_s * share * chance.gammavariate(10, 0.1)
            yield "done", 0.0

    fleet = [worker() for _ in range(gpus)]
    due = [(chance.uniform(0, image_s), number) for number in range(gpus)]
    heapq.heapify(due)
    done = 0
    while due[0][0] < span_s:
        now_s, number = heapq.heappop(due)
        kind, service_s = next(fleet[number])
        if kind in speeds:
            now_s = (store if kind == "store" else prefect).serve(now_s, service_s)
        elif kind == "work":
            now_s += service_s
        else:
            done += 1
        heapq.heappush(due, (now_s, number))
    return {
        "images_per_s": done / span_s,
        "of_ideal": done / span_s / (per_day / DAY_S),
        "store_requests_per_s": len(store.waits_s) / span_s,
        "prefect_requests_per_s": len(prefect.waits_s) / span_s,
        "store_load": store.busy_s / span_s / store_cores,
        "prefect_load": prefect.busy_s / span_s / prefect_cores,
        "store_wait_ms": 1000 * _percentile(store.waits_s, 0.99),
        "database_cores": len(prefect.waits_s) / span_s * seen["database_ms"] / 1000,
        "prefect_wait_ms": 1000 * _percentile(prefect.waits_s, 0.99),
    }


def _percentile(values: list[float], share: float) -> float:
    return sorted(values)[int(share * (len(values) - 1))]


def _print_simulations(seen: dict[str, float]) -> None:
    print(
        "GPUs  images/day  store cores  Prefect servers | of ideal | store req/s load wait99 | Prefect req/s load wait99 | DB"
    )
    fleets = [(100, 1e6, store, prefect) for store, prefect in SERVERS]
    for gpus, per_day, store_cores, prefect_cores in [(10, 1e5, 1, 1), *fleets, (100, 3e6, 16, 32)]:
        found = simulate(seen, gpus=gpus, per_day=per_day, store_cores=store_cores, prefect_cores=prefect_cores)
        print(
            f"{gpus:4} {per_day:11,.0f} {store_cores:12} {prefect_cores:16} | {found['of_ideal']:8.2f} |"
            f" {found['store_requests_per_s']:8.0f} {found['store_load']:6.2f} {found['store_wait_ms']:6.0f} ms |"
            f" {found['prefect_requests_per_s']:8.0f} {found['prefect_load']:6.2f} {found['prefect_wait_ms']:6.0f} ms |"
            f" {found['database_cores']:4.1f} cores"
        )
    rescans = 24 * 1e6 * seen["store_found_reads"] / DAY_S
    print(f"an inbox that keeps a day's million pictures and is scanned each hour: {rescans:,.0f} reads/s more")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("part", choices=["measure", "simulate"], nargs="?", default="simulate")
    parser.add_argument("--images", type=int, default=40, help="of the measured batch")
    options = parser.parse_args()
    if options.part == "measure":
        measure(options.images)
    else:
        _print_simulations(MEASURED)


if __name__ == "__main__":
    main()
