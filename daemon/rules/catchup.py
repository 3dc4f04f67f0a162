"""Which of the due times missed in a gap are caught up."""

from collections.abc import Sequence
from datetime import datetime, timedelta

from daemon.model import Catchup, DueTime
from daemon.rules.cadence import Cadence

LATE = timedelta(seconds=60)
MOST_ROWS = 1000
"""Due times of one gap beyond this number that are not started share one row of the ledger."""
OVERTAKEN = "a newer due time has come since and starts instead (catchup = latest, overlap = skip)"
"""Why a missed due time is not caught up although it is the latest one in the window."""

_INSTANT = timedelta(microseconds=1)


def default_window(least: timedelta, cadence: Cadence) -> timedelta:
    """Return the window of a schedule that sets none: `least`, or its longest gap between due times if that is longer.

    With a shorter one, a due time that is missed could be too old although no newer one has come.
    """
    return max(least, cadence.rhythm.gaps()[1])


def missed_before(now: datetime, daemon_started: datetime) -> datetime:
    """Return the limit between missed and late: a start planned before it was missed, a later one is only late.

    If the daemon's own start lies in the future, the wall clock was set back since, and it is ignored.
    """
    return now - LATE if daemon_started > now else max(daemon_started, now - LATE)


def last_missed(cadence: Cadence, key: str, cursor: datetime, limit: datetime) -> DueTime | None:
    """Return the newest due time after the cursor whose start lies before the limit, None if there is none."""
    due = cadence.last_until(cursor, limit)
    while due is not None and cadence.start_of(due, key) >= limit:
        due = cadence.last_until(cursor, due - _INSTANT)
    return due


def first_started(
    policy: Catchup,
    window: timedelta,
    cadence: Cadence,
    key: str,
    gap: tuple[DueTime, DueTime],
    now: datetime,
) -> DueTime | None:
    """Return the first due time of a gap (first, last) to start; all later ones start too. None: none starts."""
    first, last = gap
    if policy is Catchup.NONE or cadence.start_of(last, key) < now - window:
        return None
    if policy is Catchup.LATEST:
        return last
    oldest = cadence.next_after(max(first, now - window - cadence.jitter) - _INSTANT)
    while oldest is not None and cadence.start_of(oldest, key) < now - window:
        oldest = cadence.next_after(oldest)
    return oldest


def still_wanted(policy: Catchup, window: timedelta, dues: Sequence[datetime], now: datetime) -> set[datetime]:
    """Return which of the due times (oldest first) whose runs waited during a pause are still started after it."""
    recent = [due for due in dues if due >= now - window]
    match policy:
        case Catchup.NONE:
            return set()
        case Catchup.LATEST:
            return {*recent[-1:]}
    return {*recent}


def reason(policy: Catchup, *, in_window: bool) -> str:
    """Return the reason, for the ledger, why a missed due time was not started."""
    if policy is Catchup.NONE:
        return "the daemon was stopped or the host asleep (catchup = none)"
    if policy is Catchup.LATEST and in_window:
        return "only the latest missed due time is started (catchup = latest)"
    return f"it is older than catchup_window (catchup = {policy})"
