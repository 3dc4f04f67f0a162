"""What a schedule may still spend: of the budgets of the day, and of the allowance of its creator."""

from datetime import timedelta

from daemon.allowance import Kind
from daemon.model import DueTime
from daemon.notify.outbox import Notice
from daemon.rules.budget import owner_name
from daemon.store.connection import Transaction
from daemon.store.notifications import budget_subject
from daemon.store.schedules import ScheduleRow
from daemon.store.spending import Spending
from daemon.units import format_instant, format_size

_INSTANT = timedelta(microseconds=1)


class Funds:
    """What one schedule may still spend, as one transaction sees it."""

    def __init__(self, tx: Transaction, spending: Spending, row: ScheduleRow, room: float) -> None:
        """Begin with `room` bytes of runs, which are left of the allowance of the schedule's creator."""
        self.spending = spending
        """What its agent, and all of them together, have spent today."""
        self._tx = tx
        self._row = row
        self._most = tx.changes.run_bytes + room

    def refusal(self) -> str | None:
        """Return why the schedule may not start another run, None if it may."""
        spent = self.spending.exhausted(self._row.agent)
        if spent is None:
            return _used_allowance(self._row.creator) if self._tx.changes.run_bytes >= self._most else None
        then = self._row.cadence.next_after(DueTime(self.spending.day[1] - _INSTANT))
        again = "" if then is None else f"; the next start is due at {format_instant(then)}"
        return f"{_spent_budget(*spent)}{again}"

    def notice(self, refusal: str) -> Notice:
        """Return the notice of a refusal, for each budget once a day; that of the host is not about this schedule."""
        row, day = self._row, format_instant(self.spending.day[0])
        spent = self.spending.exhausted(row.agent)
        if spent is not None and spent[0] is None:
            return Notice("budget", _spent_budget(*spent), subject=budget_subject(None), state=day)
        return Notice("budget", refusal, row.agent, row.address, subject=budget_subject(row.agent), state=day)


def _spent_budget(owner: str | None, figures: str) -> str:
    return f"the daily budget of {owner_name(owner)} is spent: {figures}"


def _used_allowance(creator: str) -> str:
    done = Kind.FIRES.value.format(format_size(Kind.FIRES.most))
    fix = "have them start less often or with smaller inputs, or declare some in the config"
    return f"{creator} has {done} stored within a day, which is the limit; {fix}"
