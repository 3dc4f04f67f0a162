"""What a start does with the runs that an earlier daemon left active, and after an accepted loss of the database."""

from collections.abc import Collection
from datetime import datetime

import structlog

from daemon.fires import skip_undecided
from daemon.model import RunStatus
from daemon.notices import run_ended
from daemon.rules.notifying import Audience
from daemon.runs.queue import Queue
from daemon.store.database import Database, Transaction
from daemon.store.runs import begun_runs, change_status, pending_runs
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
    for row in live_schedules(tx):
        if not row.paused:
            skip_undecided(tx, row, now, "unknown whether it ran: the database lost what happened up to then")
            move_cursor(tx, row, now)
    for run in pending_runs(tx):
        if run.id in begun:
            reason = "unknown whether it ran: the database lost what happened to it"
            change_status(tx, run, RunStatus.INTERRUPTED, now, error=reason)
            run_ended(tx, audience, run, RunStatus.INTERRUPTED, reason, now)
