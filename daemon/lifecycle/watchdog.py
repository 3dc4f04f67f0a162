"""Reports to the service manager that the daemon makes progress, with its status in one line."""

import asyncio
import time
from collections.abc import Awaitable, Callable
from functools import partial

from daemon.errors import StoreUnavailableError
from daemon.lifecycle.status_line import StatusLine
from daemon.log import Log
from daemon.metrics import Metrics
from daemon.problems import standing_loop
from daemon.store.home import Home
from daemon.systemd import notify, watchdog_interval

_EVERY = 10.0  # seconds


class Watchdog:
    """Sends `WATCHDOG=1` while the event loop and the database writer make progress, and `STATUS=`."""

    def __init__(
        self,
        home: Home,
        status: StatusLine,
        metrics: Metrics,
        log: Log,
        forget_if_undone: Callable[[], Awaitable[None]],
    ) -> None:
        """Call `forget_if_undone` before the status is shown: a failed reload may not matter any more."""
        self._home = home
        self._status = status
        self._metrics = metrics
        self._log = log
        self._forget_if_undone = forget_if_undone
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
        self._log.flood.report_suppressed()
        self._check_log(interval)
        try:
            await self._home.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
            await self._home.database.check_room()
            self._status.health.store = ""
        except StoreUnavailableError as error:  # the writer responded, so it makes progress
            self._status.health.store = str(error)
        notify("WATCHDOG=1")
        await self._forget_if_undone()
        notify(await self._status.text())
        self._took = time.monotonic() - began

    def _check_log(self, interval: float) -> None:
        """Show lost log lines where they can be seen, since the log itself cannot show them."""
        self._metrics.log_lines_lost(self._log.file.lost)
        trouble = self._log.file.trouble()
        if trouble is None:
            self._home.problems.resolve("log")
        else:
            self._home.problems.report("log", trouble, retry_in=interval)
