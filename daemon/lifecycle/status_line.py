"""The line that `systemctl status` shows of a running daemon."""

from daemon.errors import StoreUnavailableError
from daemon.runs.queue import Queue
from daemon.store.home import Home
from daemon.store.run_queue import count_pending
from daemon.store.schedules import next_wake
from daemon.text import escape
from daemon.units import format_instant
from daemon.views.health import Health


class StatusLine:
    """Counts of runs, the next start, the last reload, and current problems."""

    def __init__(self, home: Home, queue: Queue, health: Health) -> None:
        self._home = home
        self._queue = queue
        self.health = health
        self.reloaded = ""
        """When the config was reloaded last, and how much that changed; empty if it was not."""

    async def text(self) -> str:
        """Return the assignment of `STATUS=`."""
        parts = [await self._counts(), self.reloaded, self.health.problems()]
        return f"STATUS={escape('; '.join(part for part in parts if part))}"

    async def _counts(self) -> str:
        running = len(self._queue.under_way)
        try:
            waiting = await self._home.database.read(count_pending)
            wake = await self._home.database.read(next_wake)
        except StoreUnavailableError as error:
            self.health.store = str(error)
            return f"{running} running"
        is_ahead = wake is not None and wake > self._home.now()  # else it is about to be decided
        following = f", next {format_instant(wake)}" if wake and is_ahead else ""
        return f"{running} running, {waiting} waiting{following}"
