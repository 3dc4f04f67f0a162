"""The ledger of one schedule: records one row for each due time, and never two."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.model import CONFIG_PRINCIPAL, DueTime, FireOutcome
from daemon.rules import catchup
from daemon.store.connection import Transaction
from daemon.store.fires import Summary, add_summary, count_recorded, is_recorded, record_fire
from daemon.store.schedules import ScheduleRow
from daemon.store.skips import pending_skips, remove_skip
from daemon.units import format_instant, parse_instant

_INSTANT = timedelta(microseconds=1)
_ON_REQUEST = "skipped on request"


@dataclass(frozen=True)
class Fire:
    """A decided due time, or a summary of many, as the log reports it."""

    agent: str
    schedule: str
    due: datetime
    outcome: FireOutcome
    run_id: int | None = None
    reason: str | None = None
    count: int = 1
    """How many due times the row covers."""
    late: timedelta = timedelta(0)
    """How long after its start time, jitter included, the first one was decided."""
    creator: str | None = None
    """Who created the schedule, None if the config declares it."""


class Ledger:
    """Records the due times of one schedule in one transaction, oldest first."""

    def __init__(self, tx: Transaction, row: ScheduleRow, now: datetime) -> None:
        self.tx = tx
        self.row = row
        self.now = now
        self.cursor = row.cursor
        """Every due time up to here has its row."""
        self.fires: list[Fire] = []
        """What was recorded."""

    def has(self, due: DueTime) -> bool:
        """Return whether a due time has a row or is covered by a summary."""
        return is_recorded(self.tx, self.row.id, due)

    def record(
        self, due: DueTime, outcome: FireOutcome, *, run_id: int | None = None, reason: str | None = None
    ) -> None:
        """Record a due time; raise sqlite3.IntegrityError if it already has a row."""
        record_fire(self.tx, self.row.id, due, outcome, self.now, run_id=run_id, reason=reason)
        self._note(due, outcome, run_id=run_id, reason=reason)

    def skip_if_requested(self, due: DueTime) -> bool:
        """Record a due time as skipped if a skip was requested for it; return whether it was."""
        requested = remove_skip(self.tx, self.row.id, due)
        if requested:
            self.record(due, FireOutcome.SKIPPED_REQUESTED, reason=_ON_REQUEST)
        return requested

    def skip_all(self, last: DueTime, outcome: FireOutcome, reason: str) -> None:
        """Record the due times after the cursor and up to `last` as skipped; one row for all if they are too many."""
        cadence = self.row.cadence
        self._record_requested_skips(last)
        first = cadence.next_after(self.cursor)
        if first is None or first > last:
            return
        count = cadence.count(self.cursor, last)
        if count > catchup.MOST_ROWS:
            self.summarise(first, last, count, outcome, reason)
        else:
            due: DueTime | None = first
            while due is not None and due <= last:
                if not self.has(due):
                    self.record(due, outcome, reason=reason)
                due = cadence.next_after(due)
        self.cursor = last

    def summarise(self, first: DueTime, last: DueTime, count: int, outcome: FireOutcome, reason: str) -> None:
        """Record many due times in one row, except those that already have rows."""
        cadence = self.row.cadence
        while self.has(first) and first < last:
            first = cadence.next_after(first) or last
            count -= 1
        newest = cadence.last_until(first - _INSTANT, last) or last
        count -= count_recorded(self.tx, self.row.id, first, newest)
        if count > 0:
            decided_at = format_instant(self.now)
            add_summary(
                self.tx,
                Summary(self.row.id, first, newest, count, outcome, reason, decided_at, self.row.version),
            )
            self.tx.changes.fire(self.row.id, outcome, count)
            self._note(first, outcome, reason=reason, count=count)

    def _record_requested_skips(self, last: DueTime) -> None:
        """Record the due times up to `last` for which a skip was requested."""
        for requested in map(parse_instant, pending_skips(self.tx, self.row.id)):
            due = self.row.cadence.next_after(requested - _INSTANT)
            if due == requested and self.cursor < due <= last and not self.has(due):
                self.record(due, FireOutcome.SKIPPED_REQUESTED, reason=_ON_REQUEST)

    def _note(
        self,
        due: DueTime,
        outcome: FireOutcome,
        *,
        run_id: int | None = None,
        reason: str | None = None,
        count: int = 1,
    ) -> None:
        late = self.now - self.row.cadence.start_of(due, self.row.address)
        creator = None if self.row.creator == CONFIG_PRINCIPAL else self.row.creator
        self.fires.append(Fire(self.row.agent, self.row.name, due, outcome, run_id, reason, count, late, creator))


def waiting_for_jitter(row: ScheduleRow, now: datetime) -> DueTime | None:
    """Return the due time that has come but is delayed by jitter, None if there is none."""
    due = row.cadence.last_until(row.cursor, now)
    return due if due is not None and row.cadence.start_of(due, row.address) > now else None


def skip_undecided(tx: Transaction, row: ScheduleRow, now: datetime, reason: str) -> None:
    """Record every due time that has come but is undecided as missed, before its cadence changes."""
    Ledger(tx, row, now).skip_all(DueTime(now), FireOutcome.SKIPPED_MISSED, reason)


def record_pause(tx: Transaction, row: ScheduleRow, now: datetime) -> None:
    """Record the due times of a pause that ends now in one row; none if it is unknown when the schedule was due."""
    first = row.cadence.next_after(row.cursor) if row.has_cadence else None
    if first is not None and first <= now:
        reason = f"paused since {format_instant(row.paused_at or now)}"
        count = row.cadence.count(row.cursor, now)
        Ledger(tx, row, now).summarise(first, DueTime(now), count, FireOutcome.SKIPPED_PAUSED, reason)
