"""The signs of life of an image's run."""

import os
import threading
import time

import pytest

from flows.deployments import RUN_HEARTBEAT_S, dead_runs
from flows.embedded import quiet_environment
from flows.heartbeats import heartbeats


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str]]:
    events: list[tuple[str, str]] = []
    monkeypatch.setattr(
        "prefect.events.emit_event", lambda event, resource: events.append((event, resource["prefect.resource.id"]))
    )
    monkeypatch.setenv("PREFECT__RUNTIME__FLOW_RUN__ID", "7")
    return events


def test_a_run_at_work_sends_what_the_automation_listens_for_and_one_that_has_ended_nothing(
    sent: list[tuple[str, str]],
) -> None:
    with heartbeats(0.01):
        deadline = time.monotonic() + 10
        while len(sent) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
    count = len(sent)
    assert set(sent) == {("prefect.flow-run.heartbeat", "prefect.flow-run.7")}
    assert "prefect.flow-run.heartbeat" in dead_runs().trigger.expect
    time.sleep(0.05)
    assert len(sent) == count >= 2


@pytest.mark.parametrize("every_s", [None, 30.0])
def test_a_short_run_sends_none_and_leaves_no_thread(sent: list[tuple[str, str]], every_s: float | None) -> None:
    before = threading.active_count()
    with heartbeats(every_s):
        pass
    assert (sent, threading.active_count()) == ([], before)


def test_a_submit_s_runs_are_not_silent_for_so_long_that_a_server_gives_them_up(monkeypatch: pytest.MonkeyPatch) -> None:
    # Set and removed, so that what the call sets is undone.
    monkeypatch.setenv("PREFECT_FLOWS_HEARTBEAT_FREQUENCY", "180")
    monkeypatch.delenv("PREFECT_FLOWS_HEARTBEAT_FREQUENCY")
    quiet_environment()
    assert int(os.environ["PREFECT_FLOWS_HEARTBEAT_FREQUENCY"]) == RUN_HEARTBEAT_S
