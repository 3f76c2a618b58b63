"""An inbox that is scanned again and again: each picture is taken once, refused ones are put aside, changes are noticed."""

import os
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import pytest

from flows import claims
from flows.claims import Claims
from flows.inbox import Item, quarantine_refused
from flows.submit import Job, Outcome, Report, Request, submit
from img2mesh.errors import InputError
from tests.command import broken_assets, picture, run, start, wait
from tests.small_cli import in_a_loop, steps


def scan(folder: Path, inbox: str = "inbox") -> Report:
    request = Request.of([str(folder / inbox)], assets=str(folder / "assets"))
    return submit(request, steps(seed=0), run_pending=in_a_loop)


def grow_old(path: Path) -> None:
    os.utime(path, (path.stat().st_atime - 3600, path.stat().st_mtime - 3600))


def put_aside(folder: Path, report: Report) -> list[str]:
    refused = [
        Item(name=one.item.name, file=one.item.file, source=one.item.source, refusal=one.error)
        for one in report.outcomes
        if isinstance(one.error, InputError)
    ]
    return quarantine_refused([str(folder / "inbox")], refused)


def test_a_refused_picture_is_put_aside_with_its_reason_and_not_taken_again(tmp_path: Path) -> None:
    picture(tmp_path / "inbox/owl.png")
    broken = tmp_path / "inbox/deeper/Broken one.png"
    broken.parent.mkdir()
    broken.write_text("no picture")
    grow_old(broken)
    (place,) = put_aside(tmp_path, scan(tmp_path))
    assert place.startswith("quarantine/Broken one-")
    aside = tmp_path / "inbox" / place
    assert (aside.read_text(), broken.exists()) == ("no picture", False)
    assert "Broken one.png: no readable picture" in aside.with_name(f"{aside.name}.reason.txt").read_text()
    again = scan(tmp_path)
    assert [(one.item.name, one.status) for one in again.outcomes] == [("owl", "published")]
    assert again.stages(cached=False) == 0


def test_a_picture_still_on_its_way_is_left_for_the_next_scan(tmp_path: Path) -> None:
    whole = picture(tmp_path / "owl.png").read_bytes()
    arriving = tmp_path / "inbox/owl.png"
    arriving.parent.mkdir()
    arriving.write_bytes(whole[: len(whole) // 2])
    report = scan(tmp_path)
    assert (report.count("refused"), put_aside(tmp_path, report)) == (1, [])
    arriving.write_bytes(whole)
    assert scan(tmp_path).count("published") == 1


def test_a_picture_that_changed_after_it_was_refused_stays(tmp_path: Path) -> None:
    file = tmp_path / "inbox/owl.png"
    file.parent.mkdir()
    file.write_text("no picture")
    report = scan(tmp_path)
    picture(file)
    grow_old(file)
    assert put_aside(tmp_path, report) == []
    assert scan(tmp_path).count("published") == 1


def test_late_and_changed_pictures_are_taken_by_the_next_scan_and_nothing_else_is(tmp_path: Path) -> None:
    picture(tmp_path / "inbox/owl.png", 1)
    scan(tmp_path)
    first = (tmp_path / "assets/inbox/owl/mesh.glb").read_bytes()
    picture(tmp_path / "inbox/cat.png", 2)
    late = scan(tmp_path)
    assert (late.count("published"), late.stages(cached=False), late.stages(cached=True)) == (2, 6, 6)
    picture(tmp_path / "inbox/owl.png", 3)
    changed = scan(tmp_path)
    assert (changed.count("published"), changed.stages(cached=False)) == (2, 6)
    assert (tmp_path / "assets/inbox/owl/mesh.glb").read_bytes() != first
    assert broken_assets(tmp_path / "assets") == []


def claimed(job: Job, items: Sequence[Item]) -> list[Outcome]:
    """The images in turn as the flow takes them, without Prefect."""
    done: dict[str, Outcome] = {}
    mine = Claims(job.store)
    while len(done) < len(items):
        for item in items:
            if item.name not in done:
                with mine.claim(job.work_name(item)) as ours:
                    if ours:
                        done[item.name] = in_a_loop(job, [item])[0]
    return list(done.values())


def test_workers_that_race_for_an_inbox_compute_each_stage_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number in range(4):
        picture(tmp_path / f"inbox/{number}.png", number)
    log = tmp_path / "log"
    monkeypatch.setenv("SMALL_LOG", str(log))
    monkeypatch.setenv("SMALL_DELAY_S", "0.02")
    monkeypatch.setattr(claims, "RENEW_S", 0.05)
    reports: list[Report] = []

    def work() -> None:
        request = Request.of([str(tmp_path / "inbox")], assets=str(tmp_path / "assets"))
        reports.append(submit(request, steps(seed=0), run_pending=claimed))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [report.count("published") for report in reports] == [4, 4, 4]
    counts = Counter(log.read_text().splitlines())
    assert (len(counts), set(counts.values())) == (24, {1})
    assert broken_assets(tmp_path / "assets") == []
    assert list((tmp_path / "assets/.store/claims").iterdir()) == []


@pytest.mark.slow
def test_two_submits_of_one_batch_at_once_in_prefect_compute_each_stage_once(tmp_path: Path) -> None:
    for number in range(2):
        picture(tmp_path / f"in/{number}.png", number)
    settings = {"SMALL_LOG": str(tmp_path / "log"), "SMALL_DELAY_S": "0.3"}
    both = [start("submit", "in", "--json", cwd=tmp_path, settings=settings) for _ in range(2)]
    ended = [wait(process) for process in both]
    assert [(one.code, one.report()["published"]) for one in ended] == [(0, 2), (0, 2)], [one.err for one in ended]
    counts = Counter((tmp_path / "log").read_text().splitlines())
    assert (len(counts), set(counts.values())) == (12, {1})
    assert run("verify", cwd=tmp_path).code == 0
