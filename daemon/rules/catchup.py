"""Which of the due times missed in a gap are started after all."""

from datetime import datetime, timedelta

from daemon.model import Catchup, DueTime
from daemon.rules.cadence import Cadence

LATE = timedelta(seconds=60)
MOST_ROWS = 1000
"""More due times of one gap that are not started share one row of the ledger."""

_INSTANT = timedelta(microseconds=1)


def missed_before(now: datetime, daemon_started: datetime) -> datetime:
    """Return the instant such that a start meant for before it was missed, and a later one is merely late.

    A start of the daemon that lies in the future only says that the wall clock was stepped back since.
    """
    return now - LATE if daemon_started > now else max(daemon_started, now - LATE)


def last_missed(cadence: Cadence, key: str, cursor: datetime, limit: datetime) -> DueTime | None:
    """Return the newest due time after the cursor whose start lies before the limit."""
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
    """Return the first due time of a gap (first, last) that is started; it and all after it are, none before it."""
    first, last = gap
    if policy is Catchup.NONE or cadence.start_of(last, key) < now - window:
        return None
    if policy is Catchup.LATEST:
        return last
    oldest = cadence.next_after(max(first, now - window - cadence.jitter) - _INSTANT)
    while oldest is not None and cadence.start_of(oldest, key) < now - window:
        oldest = cadence.next_after(oldest)
    return oldest


def reason(policy: Catchup, *, in_window: bool) -> str:
    """Say in the ledger why a missed due time was not started."""
    if policy is Catchup.NONE:
        return "missed while the daemon was not running or asleep (catchup = none)"
    if policy is Catchup.LATEST and in_window:
        return "missed, and not the latest that was (catchup = latest)"
    return f"missed, and older than catchup_window (catchup = {policy})"
