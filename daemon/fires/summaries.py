"""Shortens and splits summaries, the rows of the ledger that cover many due times.

The due times that a summary covers follow from the cadence that the schedule had when the summary was written.
"""

import sqlite3
from dataclasses import replace
from datetime import datetime, timedelta

from daemon.model import DueTime, FireOutcome
from daemon.rules.cadence import Cadence
from daemon.store.connection import Transaction
from daemon.store.fires import (
    Summary,
    add_summary,
    count_recorded,
    forget_fire,
    outcome_of,
    shorten_summary,
    summary_from,
    summary_over,
)
from daemon.store.schedules import UNDECIDABLE, ScheduleRow, cadence_at, get_schedule_by_id
from daemon.units import format_instant

_INSTANT = timedelta(microseconds=1)
_STEP = timedelta(milliseconds=1)


def end_summary(tx: Transaction, raw: sqlite3.Row, now: datetime) -> None:
    """Shorten a summary so that it ends now, or delete it if it begins later; earlier due times stay covered."""
    schedule_id, first, count = raw["schedule_id"], raw["scheduled_for"], raw["covers_count"]
    if first > format_instant(now):
        forget_fire(tx, schedule_id, first)
        return
    last: datetime = now
    try:
        summary = summary_from(raw)
        row = get_schedule_by_id(tx, schedule_id)
        cadence = cadence_of(tx, row, summary) if row else None
        newest = cadence.last_until(summary.first - _INSTANT, now) if cadence else None
        if cadence is not None and newest is not None:
            others = count_recorded(tx, schedule_id, summary.first, newest) - count
            last, count = newest, min(max(cadence.count(summary.first - _INSTANT, newest) - others, 1), count)
    except UNDECIDABLE:  # a row is damaged: keep the count, and end the summary now
        last = now
    shorten_summary(tx, schedule_id, first, last, count)


def split_summary(tx: Transaction, row: ScheduleRow, due: DueTime) -> FireOutcome | None:
    """Split the summary that covers a due time into the parts before and after it; return its outcome."""
    summary = summary_over(tx, row.id, due)
    if summary is None:
        return None
    cadence = cadence_of(tx, row, summary)
    forget_fire(tx, row.id, summary.first)
    for part in _cut(summary, due) if cadence is None else _divided(tx, summary, cadence, due):
        add_summary(tx, part)
    return summary.outcome


def cadence_of(tx: Transaction, row: ScheduleRow, summary: Summary) -> Cadence | None:
    """Return the cadence that a summary's due times follow, None if this is not certain."""
    cadence = cadence_at(tx, row, row.version if summary.version is None else summary.version)
    before = summary.first - _INSTANT
    ends_agree = (
        cadence.next_after(before) == summary.first and cadence.last_until(before, summary.last) == summary.last
    )
    return cadence if ends_agree and cadence.count(before, summary.last) >= summary.count else None


def _divided(tx: Transaction, summary: Summary, cadence: Cadence, due: DueTime) -> list[Summary]:
    """Return the rest of a summary without one due time, computed from the cadence."""
    left = summary.count - cadence.count(due - _INSTANT, due)
    before = _part_of(tx, summary, cadence, summary.first, DueTime(due - _INSTANT))
    after = _part_of(tx, summary, cadence, DueTime(due + _INSTANT), summary.last)
    parts = []
    if before is not None:
        parts.append(replace(before, count=min(before.count, left) if after else left))
        left -= parts[0].count
    if after is not None and left > 0:
        parts.append(replace(after, count=left))
    return parts


def _part_of(tx: Transaction, summary: Summary, cadence: Cadence, first: DueTime, last: DueTime) -> Summary | None:
    """Return the part of a summary from `first` to `last`, without due times that have their own rows."""
    begin, end = cadence.next_after(first - _INSTANT), cadence.last_until(first - _INSTANT, last)
    while begin is not None and end is not None and begin <= end and outcome_of(tx, summary.schedule_id, begin):
        begin = cadence.next_after(begin)
    if begin is None or end is None or begin > end:
        return None
    count = cadence.count(begin - _INSTANT, end) - count_recorded(tx, summary.schedule_id, begin, end)
    return replace(summary, first=begin, last=end, count=count) if count > 0 else None


def _cut(summary: Summary, due: DueTime) -> list[Summary]:
    """Return the rest of a summary without one due time, estimated by time because its cadence is not known."""
    left = max(summary.count - 1, 1)
    share = round(left * (due - summary.first) / max(summary.last - summary.first, _STEP))
    parts = []
    if due > summary.first:
        parts.append(replace(summary, last=DueTime(due - _STEP), count=max(share, 1)))
    if due < summary.last:
        parts.append(replace(summary, first=DueTime(due + _STEP), count=max(left - share, 1)))
    return parts
