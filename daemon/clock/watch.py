"""The watch for steps of the wall clock and for suspends: what they change is computed anew at once."""

import asyncio
import contextlib
import os
import time
from collections.abc import Iterator
from datetime import timedelta

import structlog

from daemon.clock.timerfd import acknowledge, open_clock_watch
from daemon.fires.rewind import step_back
from daemon.store.home import Home

_LOG = structlog.get_logger()
_HEARTBEAT = 5.0  # seconds
_JUMP = 1.0  # seconds by which wall clock and monotonic time may drift apart between two heartbeats


class ClockWatch:
    """Notices when the wall clock jumps: within a few seconds, at once where the kernel reports it."""

    def __init__(self, home: Home) -> None:
        self._home = home

    async def serve(self) -> None:
        """Watch until the task is cancelled."""
        offset = _wall_minus_monotonic()
        with _clock_set() as was_set:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT):
                        await was_set.wait()
                was_set.clear()
                jump = _wall_minus_monotonic() - offset
                if abs(jump) > _JUMP:
                    offset += jump
                    await self.jumped(timedelta(seconds=jump))

    async def jumped(self, by: timedelta) -> None:
        """Bring the database in line with the clock; the commit wakes all that wait for a time."""
        _LOG.warning("[clock] The wall clock jumped; alarms are computed anew", seconds=round(by.total_seconds(), 3))
        shortened = await self._home.database.write_patiently(lambda tx: step_back(tx, self._home.now()))
        if shortened:
            _LOG.warning(
                "[clock] Due times that were missed under a clock ahead of time are open again", schedules=shortened
            )


@contextlib.contextmanager
def _clock_set() -> Iterator[asyncio.Event]:
    """Give an event that the kernel sets when the wall clock is set; without timerfd nothing sets it."""
    event = asyncio.Event()
    try:
        descriptor = open_clock_watch()
    except OSError as error:
        _LOG.info("[clock] No timerfd here; only the heartbeat notices jumps", reason=error.strerror)
        yield event
        return

    def note() -> None:
        acknowledge(descriptor)
        event.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, note)
    try:
        yield event
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _wall_minus_monotonic() -> float:
    """Return a figure that changes when the wall clock is set, and in a suspend, where the other clock stands still."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()
