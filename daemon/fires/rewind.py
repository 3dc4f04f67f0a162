"""Undoes what was recorded about the future when the wall clock steps backward."""

from datetime import datetime

from daemon.fires.summaries import end_summary
from daemon.store.connection import Transaction
from daemon.store.fires import summaries_beyond
from daemon.store.pools import rebase_closures
from daemon.store.run_queue import rebase_waits
from daemon.store.schedules import UNDECIDABLE, move_cursor, put_off, schedule_from, schedules_ahead


def step_back(tx: Transaction, now: datetime) -> int:
    """Make future due times pending again after the clock was set back, while the daemon ran or before it started.

    Cursors in the future move back to now, and summaries end now, since the rest of what they covered is yet to come.
    A due time with its own row keeps it and does not fire again. Retries wait no longer than their original delay,
    and pools stay closed no longer than the limits that were met.
    Return the number of shortened summaries.
    """
    summaries = summaries_beyond(tx, now)
    for summary in summaries:
        end_summary(tx, summary, now)
    for raw in schedules_ahead(tx, now):
        try:
            move_cursor(tx, schedule_from(raw), now)
        except UNDECIDABLE:  # its row is damaged; the clock will report it
            put_off(tx, raw["id"], now)
    rebase_waits(tx, now)
    rebase_closures(tx, now)
    tx.changes.count("clock", "stepped")
    return len(summaries)
