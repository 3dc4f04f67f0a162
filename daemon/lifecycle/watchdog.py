"""What the service manager hears of a running daemon: that it advances, and in one line how it stands."""

import asyncio
import time
from collections.abc import Callable

from daemon.errors import StoreUnavailableError
from daemon.log import Flood
from daemon.metrics import Metrics
from daemon.runs.queue import Queue
from daemon.store.database import Database
from daemon.store.runs import count_pending
from daemon.store.schedules import next_wake
from daemon.systemd import notify, watchdog_interval
from daemon.text import escape
from daemon.units import format_instant

_EVERY = 10.0  # seconds


class Watchdog:
    """Says `WATCHDOG=1` while loop and database writer advance, and `STATUS=` with counts and what is amiss."""

    def __init__(
        self, database: Database, queue: Queue, metrics: Metrics, flood: Flood, refusal: Callable[[], str]
    ) -> None:
        """`refusal` says why the config was not reloaded when somebody last asked for it, nothing if it was."""
        self._database = database
        self._queue = queue
        self._metrics = metrics
        self._flood = flood
        self._refusal = refusal
        self._trouble = ""

    async def serve(self) -> None:
        """Tell for as long as the daemon runs, twice as often as the watchdog asks for."""
        interval = min(watchdog_interval() or _EVERY, _EVERY)
        took = 0.0
        while True:
            before, pause = time.monotonic(), max(interval - took, interval / 10)
            await asyncio.sleep(pause)
            began = time.monotonic()
            self._metrics.lagged(began - before - pause)
            self._flood.tell()
            try:
                await self._database.write(lambda tx: tx.execute("SELECT 1").fetchone())
                await self._database.check_room()
                self._trouble = ""
            except StoreUnavailableError as error:  # the writer answered: it advances
                self._trouble = str(error)
            notify("WATCHDOG=1")
            notify(await self.status())
            took = time.monotonic() - began

    def amiss(self) -> str:
        """Say what keeps the daemon from doing what it should, nothing if all is well."""
        refusal = self._refusal()
        not_reloaded = f"config not reloaded ({refusal}), see the log" if refusal else ""
        return "; ".join(part for part in (self._trouble, not_reloaded) if part)

    async def status(self) -> str:
        """Return the assignment that `systemctl status` shows."""
        parts = [await self._counts(), self.amiss()]
        return f"STATUS={escape('; '.join(part for part in parts if part))}"

    async def _counts(self) -> str:
        running = len(self._queue.under_way)
        try:
            waiting = await self._database.read(count_pending)
            wake = await self._database.read(next_wake)
        except StoreUnavailableError as error:
            self._trouble = str(error)
            return f"{running} running"
        following = f", next {format_instant(wake)}" if wake else ""
        return f"{running} running, {waiting} waiting{following}"
