"""When the sweeps that go on beside the alarm are due."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.config.schema import Cleanup, Config, Retention
from daemon.rules.cadence import Cadence, cron_cadence, interval_cadence

_LOOK = 30.0  # seconds after which the wall clock and the config are looked at again


def cadence_of(settings: Cleanup | Retention, config: Config) -> Cadence:
    """Return when a sweep is due, in the daemon's zone."""
    if settings.cron is not None:
        return cron_cadence(settings.cron, config.daemon.timezone, None, None, timedelta(0))
    return interval_cadence(settings.every, timedelta(0), None, None, timedelta(0))


@dataclass
class Progress:
    """How far a sweep that is under way has come."""

    done: int = 0
    total: int = 0
    """About how much there is to do."""


async def wait_until_due(
    cadence: Callable[[], Cadence], last: datetime, now: Callable[[], datetime], woken: asyncio.Event | None = None
) -> bool:
    """Wait for the first time after the last one, whatever the clock and the config do; False if woken before."""
    woken = woken or asyncio.Event()
    while True:
        last = min(last, now())  # the clock may have been ahead
        due = cadence().next_after(last)
        left = _LOOK if due is None else due.timestamp() - now().timestamp()
        if due is not None and left <= 0:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, _LOOK)):
                await woken.wait()
        if woken.is_set():
            woken.clear()
            return False
