"""How long the command line takes where no model runs: help, version, and a batch that is done already.

Usage: python benchmarks/submit.py [IMAGES]   (default 3 images, made here, through the small stages of the tests)
"""

import statistics
import sys
import tempfile
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from command import picture, run


def median_s(*arguments: str, small: bool, cwd: Path, code: int = 0, times: int = 5) -> float:
    """Median wall-clock seconds of a command."""
    taken = []
    for _ in range(times):
        start = time.perf_counter()
        ended = run(*arguments, small=small, cwd=cwd)
        taken.append(time.perf_counter() - start)
        if ended.code != code:
            raise SystemExit(ended.err)
    return statistics.median(taken)


def main(images: int) -> None:
    """Print one line a measurement."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        for number in range(images):
            picture(folder / f"in/{number}.png", number)
        print(f"--help                              {median_s('--help', small=False, cwd=folder):6.2f} s (limit 0.5)")
        print(f"--version                           {median_s('--version', small=False, cwd=folder):6.2f} s")
        first = median_s("submit", "in", small=True, cwd=folder, times=1)
        print(f"first submit, small stages, new database  {first:6.2f} s")
        again = median_s("submit", "in", small=True, cwd=folder)
        print(f"second submit of {images} images            {again:6.2f} s (limit 5 and start-up)")
        more = median_s("submit", "in", "--seed", "1", small=True, cwd=folder, times=1)
        print(f"another seed, {images} images of 6 tasks in Prefect  {more:6.2f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 3)
