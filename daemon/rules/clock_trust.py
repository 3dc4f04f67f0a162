"""Whether the wall clock may be right, before history is deleted because of its age."""

from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from daemon.units import format_duration, format_instant

_JUMP = timedelta(days=1)
_GAP = timedelta(days=7)
_BELIEVED_AFTER = timedelta(days=1)
"""How long a daemon must have seen a clock that is off before it is believed."""


@dataclass(frozen=True)
class ClockTrust:
    """What is known about the wall clock; it outlives the daemon, so that no restart makes a wrong clock right."""

    newest: datetime | None
    """What the clock should show at least; None if nothing is known, as in a new database."""
    off_for: timedelta | None = None
    """How long daemons have seen it far from there; None while it is believed."""
    was_down: bool = False
    """Whether no daemon has believed the clock since `newest`: it is then unknown how long none was running."""
    was_off: bool = False
    """Whether an earlier daemon saw it far from there: that none was running since then does not explain it."""

    def after(self, now: datetime, elapsed: timedelta) -> "ClockTrust":
        """Return what is known at `now`, when the host's monotonic clock has advanced by `elapsed`.

        A clock that is behind is not followed at once: one that starts in 1970 is set soon.
        """
        ahead, most = self._ahead(now, elapsed), _GAP if self.was_down and not self.was_off else _JUMP
        if self.newest is None or -_JUMP <= ahead <= most:
            return ClockTrust(now)
        off_for = timedelta(0) if self.off_for is None else self.off_for + elapsed
        if off_for >= _BELIEVED_AFTER:
            return ClockTrust(now)
        return replace(self, newest=self.newest + elapsed, off_for=off_for)

    def doubt(self, now: datetime) -> str | None:
        """Return why the clock may be far ahead, None if there is no reason to think so: behind, nothing seems old."""
        ahead = self._ahead(now, timedelta(0))
        if self.newest is None or self.off_for is None or ahead <= timedelta(0):
            return None
        if self.was_down:
            recorded = format_instant(self.newest - self.off_for)
            return f"the clock is {_days(ahead)} ahead of the last time recorded before the start, {recorded}"
        return f"the clock jumped ahead by {_days(ahead)} while the daemon was running"

    def _ahead(self, now: datetime, elapsed: timedelta) -> timedelta:
        return timedelta(0) if self.newest is None else now - self.newest - elapsed


def _days(length: timedelta) -> str:
    return format_duration(timedelta(days=length.days))
