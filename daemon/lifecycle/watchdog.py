"""Reports to the service manager that the daemon makes progress, with its status in one line."""

import asyncio
import time
from functools import partial

from daemon.errors import StoreUnavailableError
from daemon.lifecycle.status_line import StatusLine
from daemon.log import Flood
from daemon.metrics import Metrics
from daemon.problems import standing_loop
from daemon.store.home import Home
from daemon.systemd import notify, watchdog_interval

_EVERY = 10.0  # seconds


class Watchdog:
    """Sends `WATCHDOG=1` while the event loop and the database writer make progress, and `STATUS=`."""

    def __init__(self, home: Home, status: StatusLine, metrics: Metrics, flood: Flood) -> None:
        self._home = home
        self._status = status
        self._metrics = metrics
        self._flood = flood
        self._took = 0.0

    async def serve(self) -> None:
        """Report until the task is cancelled, twice as often as the service manager requires."""
        interval = min(watchdog_interval() or _EVERY, _EVERY)
        await standing_loop("watchdog", self._home.problems, partial(self._beat, interval))

    async def _beat(self, interval: float) -> None:
        """Wait for the rest of the interval, then report."""
        before, pause = time.monotonic(), max(interval - self._took, interval / 10)
        await asyncio.sleep(pause)
        began = time.monotonic()
        self._metrics.lagged(began - before - pause)
        self._flood.report_suppressed()
        try:
            await self._home.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
            await self._home.database.check_room()
            self._status.health.store = ""
        except StoreUnavailableError as error:  # the writer responded, so it makes progress
            self._status.health.store = str(error)
        notify("WATCHDOG=1")
        notify(await self._status.text())
        self._took = time.monotonic() - began
