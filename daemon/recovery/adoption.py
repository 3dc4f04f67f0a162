"""What a start does with the runs that an earlier daemon left active, and after an accepted loss of the database."""

from collections.abc import Callable, Collection
from datetime import datetime

import structlog

from daemon.fires.decision import skip_undecided
from daemon.model import RunStatus
from daemon.notify.outbox import run_ended
from daemon.rules.notifications import Audience
from daemon.runs.queue import Queue
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.store.runs import Run, begun_runs, change_status, pending_runs
from daemon.store.schedules import live_schedules, move_cursor

_LOG = structlog.get_logger()


async def recover(database: Database, queue: Queue) -> None:
    """Adopt what lives, finish what ended, and put back what never began; obey flags set meanwhile."""
    active = await database.read(begun_runs)
    if active:
        _LOG.info("[run] Taking over the runs of an earlier daemon", runs=len(active))
    for run in active:
        queue.take_over(run)
    await queue.obey_flags()


def start_anew(tx: Transaction, now: datetime, begun: Collection[int], audience: Audience) -> None:
    """Go on with a database that does not know what happened last: nothing that may have run is started again.

    Due times up to now get rows that say so; waiting runs among `begun`, those that have a folder, are interrupted.
    """
    _close_due_times(tx, now)
    for run in pending_runs(tx):
        if run.id in begun:
            _interrupt(tx, run, now, audience)


def start_from_copy(tx: Transaction, now: datetime, release: Callable[[int], bool], audience: Audience) -> None:
    """Go on with an old copy of a database: whatever it has not yet seen begin may have begun, and ended, since.

    `let_loose` tells of a run that had a supervisor whether its command may have been begun. What was active goes on or
    is finished from its records, but nothing is attempted again: that may have been done, too.
    """
    _close_due_times(tx, now)
    for run in pending_runs(tx):
        _interrupt(tx, run, now, audience)
    for run in begun_runs(tx):
        if run.delivered_at is None and run.pid is not None and release(run.id):
            tx.execute("UPDATE runs SET delivered_at = started_at WHERE id = ?", (run.id,))
        elif run.delivered_at is None:
            _interrupt(tx, run, now, audience)
    tx.execute(
        "UPDATE runs SET settings = json_set(settings, '$.attempts', 1, '$.on_interrupt', 'fail') "
        "WHERE completed_at IS NULL AND settings IS NOT NULL"
    )


def _close_due_times(tx: Transaction, now: datetime) -> None:
    for row in live_schedules(tx):
        if not row.paused:
            skip_undecided(tx, row, now, "unknown whether it ran: the database lost what happened up to then")
            move_cursor(tx, row, now)


def _interrupt(tx: Transaction, run: Run, now: datetime, audience: Audience) -> None:
    reason = "unknown whether it ran: the database lost what happened to it"
    change_status(tx, run, RunStatus.INTERRUPTED, now, error=reason)
    run_ended(tx, audience, run, RunStatus.INTERRUPTED, reason, now)
