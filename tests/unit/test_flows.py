"""What Prefect is told of the flows, and what it is not."""

import inspect
from typing import get_args

import typer
from prefect.cache_policies import NO_CACHE

from flows import batch as flows
from flows.train import app as training


def test_prefect_caches_nothing_and_keeps_no_results() -> None:
    for flow in (flows.batch, flows.stage, flows.report, flows.train):
        assert flow.persist_result is False, flow.name
    task = flows._as_task(lambda: None, "prepare", lambda *_: False)
    assert (task.cache_policy, task.persist_result) == (NO_CACHE, False)


def test_every_network_can_be_trained_by_a_run() -> None:
    known = get_args(inspect.signature(flows.train.fn).parameters["what"].annotation)
    commands = typer.main.get_command(training).commands
    assert set(known) == set(commands) - {"ship"}
