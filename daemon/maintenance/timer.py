"""Waits until the next sweep of cleanup or retention is due."""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.config.schema import Cleanup, Config, Retention
from daemon.rules.cadence import Cadence, cron_cadence, interval_cadence

_CHECK_EVERY = 30.0  # seconds; the wall clock or the config may have changed


def cadence_of(settings: Cleanup | Retention, config: Config) -> Cadence:
    """Return the cadence of a sweep, in the daemon's time zone."""
    if settings.cron is not None:
        return cron_cadence(settings.cron, config.daemon.timezone, None, None, timedelta(0))
    return interval_cadence(settings.every, timedelta(0), None, None, timedelta(0))


@dataclass
class Progress:
    """How far a running sweep has come."""

    done: int = 0
    total: int = 0
    """An estimate of how much there is to do."""


async def wait_until_due(
    cadence: Callable[[], Cadence], last: datetime, now: Callable[[], datetime], woken: asyncio.Event | None = None
) -> bool:
    """Wait for the first due time after the last sweep; return False if woken before.

    The clock may be set, and the config reloaded, during the wait.
    """
    woken = woken or asyncio.Event()
    while True:
        last = min(last, now())  # the clock may have been ahead
        due = cadence().next_after(last)
        left = _CHECK_EVERY if due is None else due.timestamp() - now().timestamp()
        if due is not None and left <= 0:
            return True
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(min(left, _CHECK_EVERY)):
                await woken.wait()
        if woken.is_set():
            woken.clear()
            return False
