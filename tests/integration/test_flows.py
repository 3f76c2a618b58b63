"""A batch in Prefect, in this process."""

from pathlib import Path

import pytest
from prefect.context import FlowRunContext

from flows import shown
from flows.submit import Request, submit
from tests.command import picture
from tests.small_cli import steps


def test_the_run_of_a_batch_keeps_nothing_of_images_that_are_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PREFECT_API_URL", raising=False)
    for name in ("PREFECT_HOME", "XDG_CACHE_HOME"):
        monkeypatch.setenv(name, str(tmp_path / "cache"))
    for shade in (7, 8, 9):
        picture(tmp_path / f"in/{shade}.png", shade)
    kept: list[int] = []

    def look(*_: object) -> None:
        run = FlowRunContext.get()
        assert run is not None
        kept.append(len(run.run_results))

    monkeypatch.setattr(shown, "show", look)
    report = submit(Request.of([str(tmp_path / "in")], assets=str(tmp_path / "assets")), steps(seed=0))
    assert (report.count("published"), kept) == (3, [0])
