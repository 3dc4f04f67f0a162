"""What happens to active runs when the daemon stops: which are waited for, for how long, and which are aborted."""

import asyncio
import contextlib
from collections.abc import Callable

from daemon.api.background import Background
from daemon.lifecycle.signals import Stop, StopMode
from daemon.model import CONFIG_PRINCIPAL
from daemon.runs.control import RunControl
from daemon.runs.queue import Queue

_LAST_MOMENT = 1.0  # seconds that a run gets to end after it was killed or aborted
_REASON = "the daemon was stopped"


class Shutdown:
    """Waits for the runs that must end before the daemon does."""

    def __init__(self, queue: Queue, control: RunControl, background: Background, stop: Stop) -> None:
        self._queue = queue
        self._control = control
        self._background = background
        self._stop = stop

    async def wait_for_runs(self, mode: StopMode, limit: float) -> None:
        """Wait up to `limit` seconds for runs to end; then abort the calls in flight.

        Suspended runs need no waiting; in mode detach, only calls in flight are waited for.
        """
        awaited = self._awaited(mode)
        waits = {
            asyncio.create_task(self._queue.until_none(awaited)),
            asyncio.create_task(self._stop.at_once.wait()),
        }
        if mode == "cancel":
            self._cancel_all(at_once=False)
        else:
            self._control.leave_deliveries()
        await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        for task in waits:
            task.cancel()
        if mode == "cancel" and self._queue.under_way:
            self._cancel_all(at_once=True)
        elif self._control.in_flight:
            self._control.interrupt()
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_LAST_MOMENT):
                await self._queue.until_none(awaited if mode == "cancel" else self._awaited("detach"))

    def _awaited(self, mode: StopMode) -> Callable[[], set[int]]:
        match mode:
            case "detach":
                return lambda: self._control.in_flight
            case "drain":
                return lambda: self._queue.under_way - self._control.suspended
            case "cancel":
                return lambda: self._queue.under_way

    def _cancel_all(self, *, at_once: bool) -> None:
        """Cancel all runs while their end is waited for; an error is only logged."""
        self._background.start_unattended(self._queue.cancel_all(CONFIG_PRINCIPAL, _REASON, at_once=at_once))
