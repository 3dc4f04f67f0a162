"""Backfill: starts past due times that were not started when they were due."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta

from daemon.errors import InvalidError
from daemon.fires.run_of_fire import run_name, run_of_fire
from daemon.fires.summaries import cadence_of, split_summary
from daemon.model import DueTime, FireOutcome, Overlap, RunStatus, Trigger
from daemon.rules import overlap
from daemon.rules.cadence import Cadence
from daemon.store.cancellations import flag_unfinished
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.fires import (
    forget_fire,
    outcome_of,
    record_fire,
    summaries_between,
    summary_over,
    unstarted_between,
)
from daemon.store.retention import purged_until
from daemon.store.runs import Run, attempts_of, create_run, update_run
from daemon.store.schedules import ScheduleRow
from daemon.store.unfinished_runs import count_unfinished
from daemon.units import format_instant

MOST = 1000
"""The most due times that one request may cover."""
_INSTANT = timedelta(microseconds=1)
_STARTED = {FireOutcome.LAUNCHED, FireOutcome.BUFFERED}


@dataclass
class Backfilled:
    """The result of a backfill."""

    runs: list[int] = field(default_factory=list)
    already_run: int = 0
    skipped_overlap: int = 0
    upcoming: int = 0
    """Due times that the clock will still start, because jitter delays them."""


def backfill(
    tx: Transaction,
    row: ScheduleRow,
    span: tuple[datetime, datetime],
    policy: Overlap,
    *,
    principal: str,
    now: datetime,
    oldest: datetime | None,
    instance: str,
    check: Callable[[], None] | None = None,
) -> Backfilled:
    """Start the due times in a span, both ends included, that were not started; raise InvalidError for a bad span.

    `oldest` is the earliest instant that the span may include, None: any. `check` is called after each due time, and
    raises LimitError once the runs take too much room.
    """
    due_times = _due_times(tx, row, span, now, oldest)
    request = _Backfill(tx, row, policy, principal, now, instance)
    for due in due_times:
        request.start(due)
        if check is not None:
            check()
    return request.result


def _due_times(
    tx: Transaction, row: ScheduleRow, span: tuple[datetime, datetime], now: datetime, oldest: datetime | None
) -> list[DueTime]:
    """Return the due times in a span: those of the current cadence, and those recorded under an earlier one."""
    first, last = span
    if first > last:
        raise InvalidError("from is after to")
    if last > now:
        raise InvalidError("to is in the future; a backfill starts past due times only")
    if oldest is not None and first < oldest:
        raise InvalidError(f"from is before {format_instant(oldest)}; retention keeps nothing that old")
    purged = purged_until(tx, row.id)
    if purged is not None and first <= purged:
        raise InvalidError(f"retention has deleted the fires up to {format_instant(purged)}; from must be after that")
    count = row.cadence.count(first - _INSTANT, last)
    if count > MOST:
        raise _too_many(count)
    found = {*_between(row.cadence, first, last), *unstarted_between(tx, row.id, first, last)}
    for summary in summaries_between(tx, row.id, first, last):
        cadence = cadence_of(tx, row, summary)
        begin, end = max(first, summary.first), min(last, summary.last)
        if cadence is not None and cadence.count(begin - _INSTANT, end) <= MOST:
            found.update(_between(cadence, begin, end))
    if len(found) > MOST:
        raise _too_many(len(found))
    return sorted(found)


def _too_many(count: int) -> InvalidError:
    return InvalidError(f"{count} due times are between from and to; one request can start at most {MOST}")


def _between(cadence: Cadence, first: datetime, last: datetime) -> Iterator[DueTime]:
    due = cadence.next_after(first - _INSTANT)
    while due is not None and due <= last:
        yield due
        due = cadence.next_after(due)


class _Backfill:
    """One request, which starts due times one by one."""

    def __init__(
        self, tx: Transaction, row: ScheduleRow, policy: Overlap, principal: str, now: datetime, instance: str
    ) -> None:
        self.tx = tx
        self.row = row
        self.policy = policy
        self.principal = principal
        self.now = now
        self.instance = instance
        self.result = Backfilled()

    def start(self, due: DueTime) -> None:
        """Start one due time unless it was already started or the overlap policy skips it."""
        tx, row = self.tx, self.row
        if not row.paused and due > row.cursor and row.cadence.start_of(due, row.address) > self.now:
            self.result.upcoming += 1
            return
        before = outcome_of(tx, row.id, due)
        attempts = attempts_of(tx, run_name(row, due))
        if before in _STARTED or not all(map(_was_cancelled_unstarted, attempts)):
            self.result.already_run += 1
            return
        unstarted = max(attempts, key=lambda run: run.attempt, default=None)
        decision = overlap.decide(self.policy, *count_unfinished(tx, row.id))
        if decision.outcome is FireOutcome.SKIPPED_OVERLAP:
            self.result.skipped_overlap += 1
            if before is None and summary_over(tx, row.id, due) is None:
                reason = "an earlier run was unfinished when the backfill was requested"
                record_fire(tx, row.id, due, decision.outcome, self.now, reason=reason)
            return
        if decision.stop_others is not None:
            self._stop_others(at_once=decision.stop_others == "terminate")
        new = run_of_fire(row, due, Trigger.BACKFILL, self.instance, creator=self.principal, held=decision.held)
        if unstarted is not None:
            attempt = unstarted.attempt + 1
            new = replace(new, name=f"{new.name}:{attempt}", attempt=attempt, previous_run_id=unstarted.id)
        run_id, _ = create_run(tx, new, self.now)
        if unstarted is not None:
            update_run(tx, unstarted.id, self.now, next_run_id=run_id)
        before = before or split_summary(tx, row, due)
        forget_fire(tx, row.id, due)
        record_fire(tx, row.id, due, decision.outcome, self.now, run_id=run_id)
        details = {"by": self.principal, "due": format_instant(due), "was": str(before) if before else None}
        add_event(tx, run_id, self.now, "backfilled", details)
        self.result.runs.append(run_id)

    def _stop_others(self, *, at_once: bool) -> None:
        reason = f"a backfill started another run (overlap = {self.policy})"
        flag_unfinished(self.tx, self.row.id, self.now, self.principal, at_once=at_once, reason=reason)


def _was_cancelled_unstarted(run: Run) -> bool:
    return run.status is RunStatus.CANCELLED and run.started_at is None
