"""What a run of the tests covered: one line a suite, from pytest's JUnit report.

Usage: python tests/summary.py REPORT.xml
"""

import sys
from collections import Counter, defaultdict
from xml.etree import ElementTree


def main(report: str) -> None:
    """Print passed, failed and skipped tests and the seconds of each folder of tests."""
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    seconds: dict[str, float] = defaultdict(float)
    for case in ElementTree.parse(report).iter("testcase"):
        suite = (case.get("classname") or "tests.?").split(".")[1]
        counts[suite][_outcome(case)] += 1
        seconds[suite] += float(case.get("time", 0))
    print(f"{'suite':<14}{'passed':>8}{'failed':>8}{'skipped':>8}{'seconds':>9}")
    for suite in sorted(counts):
        passed, failed, skipped = (counts[suite][outcome] for outcome in ("passed", "failed", "skipped"))
        print(f"{suite:<14}{passed:>8}{failed:>8}{skipped:>8}{seconds[suite]:>9.1f}")


def _outcome(case: ElementTree.Element) -> str:
    children = {child.tag for child in case}
    if children & {"failure", "error"}:
        return "failed"
    return "skipped" if "skipped" in children else "passed"


if __name__ == "__main__":
    main(sys.argv[1])
