"""Whether the wall clock may be right, before history is deleted because of its age."""

from datetime import datetime, timedelta

from daemon.units import format_duration, format_instant

_JUMP = timedelta(days=1)
_GAP = timedelta(days=7)
BELIEVED_AFTER = timedelta(days=1)
"""How long a clock that is ahead must have been so before it is believed."""


def doubt(now: datetime, started: datetime, running: timedelta, newest: datetime | None) -> str | None:
    """Return why the clock may be far ahead, None if there is no reason to think so.

    `started` is its time when the daemon started, `running` the time since then by the host's monotonic clock, which
    nobody sets, and `newest` the newest instant that the database held at the start, None if it was new.
    """
    if newest is None:
        return None
    jump, gap = now - started - running, started - newest
    if gap > _GAP and running < BELIEVED_AFTER:
        return f"the clock is {_days(gap)} ahead of the last thing recorded before the start, {format_instant(newest)}"
    if jump > _JUMP and gap >= timedelta(0):  # else it was behind at the start, and has been corrected
        return f"the clock jumped ahead by {_days(jump)} while the daemon was running"
    return None


def _days(length: timedelta) -> str:
    return format_duration(timedelta(days=length.days))
