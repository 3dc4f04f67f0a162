"""What becomes of runs under way when the daemon stops: which are waited for, for how long, and what is given up."""

import asyncio
import contextlib
from collections.abc import Callable, Coroutine
from typing import Any

from daemon.lifecycle.signals import Stop, StopMode
from daemon.model import CONFIG_PRINCIPAL
from daemon.runs.pipeline import Pipeline
from daemon.runs.queue import Queue

_LAST_MOMENT = 1.0  # seconds that a run gets after it was ended at once
_REASON = "the daemon was stopped"


async def wait_for_runs(
    mode: StopMode,
    queue: Queue,
    pipeline: Pipeline,
    stop: Stop,
    limit: float,
    spawn: Callable[[Coroutine[Any, Any, object]], None],
) -> None:
    """Wait up to `limit` seconds for the runs that are to end before the daemon does; then give up the calls.

    Suspended runs need nobody to wait for them, and under detach only calls in flight do. `spawn` begins work that may
    fail without harm.
    """
    which: Callable[[], set[int]] = {
        "detach": lambda: pipeline.in_flight,
        "drain": lambda: queue.under_way - pipeline.suspended,
        "cancel": lambda: queue.under_way,
    }[mode]
    waits = {asyncio.create_task(queue.until_none(which)), asyncio.create_task(stop.at_once.wait())}
    if mode == "cancel":
        spawn(queue.cancel_all(CONFIG_PRINCIPAL, _REASON, at_once=False))
    await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
    for task in waits:
        task.cancel()
    if mode == "cancel" and queue.under_way:
        spawn(queue.cancel_all(CONFIG_PRINCIPAL, _REASON, at_once=True))
    elif pipeline.in_flight:
        pipeline.interrupt()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_LAST_MOMENT):
            await queue.until_none(which if mode == "cancel" else lambda: pipeline.in_flight)
