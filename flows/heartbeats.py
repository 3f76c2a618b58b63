"""Signs of life of the flow run of one image.

Prefect's own engine looks once a second whether it may stop sending them, and a run that has ended waits for that look: half a
second an image on average. This one stops at once, and an image that takes less than the time between two sends none.
"""

import contextlib
import contextvars
import threading
from collections.abc import Iterator


@contextlib.contextmanager
def instead_of_prefect_s() -> Iterator[float | None]:
    """Turn the engine's heartbeats off for the flows called in the body; gives the seconds between two, None for none."""
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    every_s = PREFECT_FLOWS_HEARTBEAT_FREQUENCY.value()
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}):
        yield every_s


@contextlib.contextmanager
def heartbeats(every_s: float | None) -> Iterator[None]:
    """Send the event that `deployments.dead_runs` listens for while the body, inside a flow run, is at work."""
    from prefect.events import emit_event
    from prefect.runtime import flow_run

    if every_s is None:
        yield
        return
    resource = {"prefect.resource.id": f"prefect.flow-run.{flow_run.id}", "prefect.resource.name": str(flow_run.name)}
    ended = threading.Event()

    def beat() -> None:
        while not ended.wait(every_s):
            emit_event("prefect.flow-run.heartbeat", resource)

    # The settings of this thread name the server.
    thread = threading.Thread(target=contextvars.copy_context().run, args=(beat,), daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()
