"""Prepares a database that has lost data or was restored, so that nothing that may have run is started again."""

from collections.abc import Callable, Collection
from datetime import datetime

from daemon.agents.base import Outcome
from daemon.fires.ledger import skip_undecided
from daemon.model import FireOutcome, RunStatus
from daemon.notify.outbox import Outbox
from daemon.store.connection import Transaction
from daemon.store.fires import mark_unstarted
from daemon.store.runs import Run, assume_delivered, change_status
from daemon.store.schedules import UNDECIDABLE, live_rows, move_cursor, schedule_from, set_cursor
from daemon.store.unfinished_runs import forbid_further_attempts, pending_runs, started_runs


def start_after_loss(tx: Transaction, now: datetime, begun: Collection[int], outbox: Outbox) -> None:
    """Prepare a database that has lost its last changes: nothing that may have run is started again.

    Due times up to now are recorded as unknown; pending runs in `begun`, which have a folder, are interrupted.
    """
    _close_due_times(tx, now)
    for run in pending_runs(tx):
        if run.id in begun:
            _interrupt(tx, run, now, outbox)


def start_from_copy(tx: Transaction, now: datetime, was_released: Callable[[int], bool], outbox: Outbox) -> None:
    """Prepare an old copy of a database: any run that is pending in it may have started, and ended, since.

    `was_released` returns whether the command of a run that had a supervisor may have been started. Active runs
    continue or are finished from their records, but get no further attempts, since those may also have been made.
    """
    _close_due_times(tx, now)
    for run in pending_runs(tx):
        _interrupt(tx, run, now, outbox)
    started, unreadable = started_runs(tx)
    if unreadable:
        raise next(iter(unreadable.values()))
    for run in started:
        if run.delivered_at is None and run.pid is not None and was_released(run.id):
            assume_delivered(tx, run.id)
        elif run.delivered_at is None:
            _interrupt(tx, run, now, outbox)
    forbid_further_attempts(tx)


def _close_due_times(tx: Transaction, now: datetime) -> None:
    """Record due times up to now as unknown; those of a schedule with a damaged row are only closed."""
    for raw in live_rows(tx):
        try:
            with tx.savepoint():
                row = schedule_from(raw)
                if not row.paused:
                    skip_undecided(tx, row, now, "unknown whether it ran: the database lost what happened up to then")
                    move_cursor(tx, row, now)
        except UNDECIDABLE:
            set_cursor(tx, raw["id"], now)


def _interrupt(tx: Transaction, run: Run, now: datetime, outbox: Outbox) -> None:
    reason = "unknown whether it ran: the database lost what happened to it"
    change_status(tx, run, RunStatus.INTERRUPTED, now, {"error": reason})
    mark_unstarted(tx, run.id, FireOutcome.SKIPPED_MISSED, reason)
    outbox.add_run_end(tx, run, Outcome(RunStatus.INTERRUPTED, reason), now)
