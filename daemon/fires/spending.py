"""Why a due time must not cost more: the agent's budget of the day, and the allowance of the schedule's creator."""

from datetime import datetime, timedelta

from daemon.allowance import Kind
from daemon.rules.budget import Limits, calendar_day, exhausted
from daemon.store.connection import Transaction
from daemon.store.runs import spent_by
from daemon.store.schedules import ScheduleRow
from daemon.units import format_instant, format_size

_INSTANT = timedelta(microseconds=1)


def spent_budget(tx: Transaction, row: ScheduleRow, limits: Limits, now: datetime, zone: str) -> str | None:
    """Return the reason if the agent of a schedule has spent its budget of the day, None otherwise."""
    begin, end = calendar_day(now, zone)
    reached = exhausted(limits, spent_by(tx, row.agent, begin, end))
    if reached is None:
        return None
    then = row.cadence.next_after(end - _INSTANT)
    again = "" if then is None else f"; the next start is due at {format_instant(then)}"
    return f"the daily budget of {row.agent} is spent: {reached}{again}"


def used_allowance(creator: str) -> str:
    """Return the reason for a creator whose schedules have started too many bytes of runs within a day."""
    done = Kind.FIRES.value.format(format_size(Kind.FIRES.most))
    fix = "have them start less often or with smaller inputs, or declare some in the config"
    return f"{creator} has {done} stored within a day, which is the limit; {fix}"
