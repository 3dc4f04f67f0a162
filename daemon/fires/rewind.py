"""What a backward step of the wall clock undoes."""

from datetime import datetime

from daemon.fires.summaries import end_summary
from daemon.store.connection import Transaction
from daemon.store.fires import summaries_beyond
from daemon.store.runs import rebase_waits
from daemon.store.schedules import UNDECIDABLE, move_cursor, put_off, schedule_from, schedules_ahead


def step_back(tx: Transaction, now: datetime) -> int:
    """Make the future open again after a backward step of the clock, and after a start with the clock set back.

    Cursors that lie there go back to now, and summaries end now: what they covered beyond has not come yet. Due times
    with rows of their own stay barred by them. Attempts wait no longer than they were told to. Return how many
    summaries were shortened.
    """
    summaries = summaries_beyond(tx, now)
    for summary in summaries:
        end_summary(tx, summary, now)
    for raw in schedules_ahead(tx, now):
        try:
            move_cursor(tx, schedule_from(raw), now)
        except UNDECIDABLE:  # somebody damaged its row; the clock will tell of it
            put_off(tx, raw["id"], now)
    rebase_waits(tx, now)
    tx.changes.count("clock", "stepped")
    return len(summaries)
