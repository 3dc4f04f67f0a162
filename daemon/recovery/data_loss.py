"""After a loss of data or a restore: what the database does not know is unknown, and nothing is started again."""

from collections.abc import Callable, Collection
from datetime import datetime

from daemon.fires.ledger import skip_undecided
from daemon.model import RunStatus
from daemon.notify.outbox import Outbox
from daemon.store.connection import Transaction
from daemon.store.runs import Run, assume_delivered, change_status, forbid_further_attempts, pending_runs, started_runs
from daemon.store.schedules import live_schedules, move_cursor


def start_after_loss(tx: Transaction, now: datetime, begun: Collection[int], outbox: Outbox) -> None:
    """Continue with a database that does not know what happened last: nothing that may have run is started again.

    Due times up to now get rows that say so; waiting runs among `begun`, those that have a folder, are interrupted.
    """
    _close_due_times(tx, now)
    for run in pending_runs(tx):
        if run.id in begun:
            _interrupt(tx, run, now, outbox)


def start_from_copy(tx: Transaction, now: datetime, was_released: Callable[[int], bool], outbox: Outbox) -> None:
    """Continue with an old copy of a database: whatever it has not yet seen begin may have begun, and ended, since.

    `was_released` tells of a run that had a supervisor whether its command may have been started. What was active
    continues or is finished from its records, but nothing is attempted again: that may have been done, too.
    """
    _close_due_times(tx, now)
    for run in pending_runs(tx):
        _interrupt(tx, run, now, outbox)
    for run in started_runs(tx):
        if run.delivered_at is None and run.pid is not None and was_released(run.id):
            assume_delivered(tx, run.id)
        elif run.delivered_at is None:
            _interrupt(tx, run, now, outbox)
    forbid_further_attempts(tx)


def _close_due_times(tx: Transaction, now: datetime) -> None:
    for row in live_schedules(tx):
        if not row.paused:
            skip_undecided(tx, row, now, "unknown whether it ran: the database lost what happened up to then")
            move_cursor(tx, row, now)


def _interrupt(tx: Transaction, run: Run, now: datetime, outbox: Outbox) -> None:
    reason = "unknown whether it ran: the database lost what happened to it"
    change_status(tx, run, RunStatus.INTERRUPTED, now, {"error": reason})
    outbox.add_run_end(tx, run, RunStatus.INTERRUPTED, reason, now)
