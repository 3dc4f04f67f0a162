"""Rows of the ledger that cover many due times: where one ends, and how one is split.

What a summary covers follows from the cadence that the schedule had when it was written.
"""

from dataclasses import replace
from datetime import datetime, timedelta

from daemon.model import DueTime, FireOutcome
from daemon.rules.cadence import Cadence
from daemon.store.database import Transaction
from daemon.store.fires import Summary, count_recorded, forget_fire, outcome_of, put_summary, summary_over
from daemon.store.schedules import ScheduleRow, cadence_when, get_schedule_by_id

_INSTANT = timedelta(microseconds=1)


def end_summary(tx: Transaction, summary: Summary, now: datetime) -> None:
    """Have a summary end now, and go if it begins later; what it covered before stays covered."""
    if summary.first > now:
        forget_fire(tx, summary.schedule_id, summary.first)
        return
    row = get_schedule_by_id(tx, summary.schedule_id)
    cadence = cadence_when(tx, row, summary.decided_at) if row else None
    last = cadence.last_until(summary.first - _INSTANT, now) if cadence else None
    if row is None or cadence is None or last is None:  # somebody changed the rows by hand
        put_summary(tx, replace(summary, last=DueTime(now)))
        return
    others = count_recorded(tx, row.id, summary.first, last) - summary.count
    count = cadence.count(summary.first - _INSTANT, last) - others
    put_summary(tx, replace(summary, last=last, count=min(max(count, 1), summary.count)))


def split_summary(tx: Transaction, row: ScheduleRow, due: DueTime) -> FireOutcome | None:
    """Split the summary that covers a due time into what lies before it and after it; return its outcome."""
    summary = summary_over(tx, row.id, due)
    if summary is None:
        return None
    cadence = cadence_when(tx, row, summary.decided_at)
    forget_fire(tx, row.id, summary.first)
    before = _uncovered(tx, summary, cadence, summary.first, DueTime(due - _INSTANT))
    after = _uncovered(tx, summary, cadence, DueTime(due + _INSTANT), summary.last)
    left = summary.count - cadence.count(due - _INSTANT, due)
    if before is not None:
        before = replace(before, count=min(before.count, left) if after else left)
        put_summary(tx, before)
        left -= before.count
    if after is not None and left > 0:
        put_summary(tx, replace(after, count=left))
    return summary.outcome


def _uncovered(tx: Transaction, summary: Summary, cadence: Cadence, first: DueTime, last: DueTime) -> Summary | None:
    """Return what a summary covers of a stretch: its due times without rows of their own."""
    begin, end = cadence.next_after(first - _INSTANT), cadence.last_until(first - _INSTANT, last)
    while begin is not None and end is not None and begin <= end and outcome_of(tx, summary.schedule_id, begin):
        begin = cadence.next_after(begin)
    if begin is None or end is None or begin > end:
        return None
    count = cadence.count(begin - _INSTANT, end) - count_recorded(tx, summary.schedule_id, begin, end)
    return replace(summary, first=begin, last=end, count=count) if count > 0 else None
