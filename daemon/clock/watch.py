"""Watches for steps of the wall clock and for suspends, and recomputes what depends on the time at once."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import structlog

from daemon.clock.timerfd import acknowledge, open_clock_watch
from daemon.fires.rewind import step_back
from daemon.problems import standing_loop
from daemon.store.home import Home

_LOG = structlog.get_logger()
_HEARTBEAT = 5.0  # seconds
_TOLERANCE = 1.0  # seconds by which wall clock and monotonic time may drift apart between two heartbeats


class ClockWatch:
    """Detects jumps of the wall clock: at once if the kernel reports them, otherwise within a few seconds."""

    def __init__(self, home: Home) -> None:
        self._home = home
        self._offset = 0.0

    async def serve(self) -> None:
        """Watch until the task is cancelled."""
        self._offset = _wall_minus_monotonic()
        with _clock_set() as was_set:
            await standing_loop("clock watch", self._home.problems, self._check, lambda _: _heartbeat(was_set))

    async def _check(self) -> None:
        jump = _wall_minus_monotonic() - self._offset
        if abs(jump) > _TOLERANCE:
            await self.jumped(timedelta(seconds=jump))
            self._offset += jump

    async def jumped(self, by: timedelta) -> None:
        """Adapt the database to the new time; the commit wakes every part that waits for a time."""
        _LOG.warning("[clock] The wall clock jumped; recomputing alarms", seconds=round(by.total_seconds(), 3))
        shortened = await self._home.database.write_patiently(lambda tx: step_back(tx, self._home.now()))
        if shortened:
            _LOG.warning(
                "[clock] Due times recorded as missed while the clock was ahead are pending again", schedules=shortened
            )


async def _heartbeat(was_set: asyncio.Event) -> None:
    """Wait until the clock is set, but not for long."""
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(_HEARTBEAT):
            await was_set.wait()
    was_set.clear()


@contextlib.contextmanager
def _clock_set() -> Iterator[asyncio.Event]:
    """Yield an event that is set when the wall clock is set; never set without timerfd."""
    event = asyncio.Event()
    try:
        descriptor = open_clock_watch()
    except OSError as error:
        _LOG.info("[clock] timerfd is not available; only the heartbeat detects clock jumps", reason=error.strerror)
        yield event
        return

    def on_clock_set() -> None:
        acknowledge(descriptor)
        event.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, on_clock_set)
    try:
        yield event
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _wall_minus_monotonic() -> float:
    """Return an offset that changes when the wall clock is set, and in a suspend, when monotonic time stops."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()
