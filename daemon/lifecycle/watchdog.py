"""What the service manager learns of a running daemon: that it advances, and in one line how it is."""

import asyncio
import time

from daemon.errors import StoreUnavailableError
from daemon.lifecycle.status_line import StatusLine
from daemon.log import Flood
from daemon.metrics import Metrics
from daemon.store.home import Home
from daemon.systemd import notify, watchdog_interval

_EVERY = 10.0  # seconds


class Watchdog:
    """Sends `WATCHDOG=1` while the loop and the database writer advance, and `STATUS=`."""

    def __init__(self, home: Home, status: StatusLine, metrics: Metrics, flood: Flood) -> None:
        self._home = home
        self._status = status
        self._metrics = metrics
        self._flood = flood

    async def serve(self) -> None:
        """Report for as long as the daemon runs, twice as often as the watchdog asks for."""
        interval = min(watchdog_interval() or _EVERY, _EVERY)
        took = 0.0
        while True:
            before, pause = time.monotonic(), max(interval - took, interval / 10)
            await asyncio.sleep(pause)
            began = time.monotonic()
            self._metrics.lagged(began - before - pause)
            self._flood.report_suppressed()
            try:
                await self._home.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
                await self._home.database.check_room()
                self._status.health.store = ""
            except StoreUnavailableError as error:  # the writer answered: it advances
                self._status.health.store = str(error)
            notify("WATCHDOG=1")
            notify(await self._status.text())
            took = time.monotonic() - began
