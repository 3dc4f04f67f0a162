"""The log lines of a time in which the database cannot be used: few, however long it lasts and whoever notices."""

import time
from collections.abc import Callable

import structlog

_LOG = structlog.get_logger()
_REMIND_AFTER = 600.0  # seconds


class Outage:
    """Logs each kind of failure when it first happens, then every ten minutes, and once when it is over."""

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._logged: dict[str, float] = {}
        self.reason: str | None = None
        """Why the database cannot be used, None while it can."""

    def log(self, event: str, error: Exception) -> None:
        """Log what cannot be done because of an error of the database."""
        self.reason = str(error)
        last = self._logged.get(event)
        if last is None or self._now() - last >= _REMIND_AFTER:
            self._logged[event] = self._now()
            _LOG.error(event, error=str(error))

    def over(self) -> None:
        """Note that the database can be written; log it if something failed before."""
        if self._logged:
            _LOG.warning("[daemon] The database can be written again", error=self.reason)
        self._logged.clear()
        self.reason = None
