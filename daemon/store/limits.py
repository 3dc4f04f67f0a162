"""How much of what is kept a principal may cause, so that one cannot fill the database or the queue for all others.

Administrators are not limited. The caller knows who is one.
"""

from datetime import datetime, timedelta

from daemon.errors import LimitError
from daemon.model import RunStatus, Trigger
from daemon.store.connection import Transaction
from daemon.text import plural
from daemon.units import format_instant

MOST_PENDING = 1000
"""The most runs that a principal requested and that wait; backfilled ones are counted separately."""
MOST_CREATED = 1000
"""The most schedules that a principal created, those deleted within a day included."""
_FIXED = 200  # bytes of a revision besides its texts
_DAY = timedelta(days=1)
_REQUESTED = (Trigger.MANUAL, Trigger.RETRY)


def check_pending(tx: Transaction, principal: str) -> None:
    """Raise LimitError if a principal may not request another run now."""
    _check(tx, principal, _REQUESTED, "requested")


def check_backfilled(tx: Transaction, principal: str) -> None:
    """Raise LimitError if a principal may not request another backfill now."""
    _check(tx, principal, (Trigger.BACKFILL,), "backfilled")


def _check(tx: Transaction, principal: str, triggers: tuple[Trigger, ...], verb: str) -> None:
    places = ", ".join("?" * len(triggers))
    count = tx.execute(
        f"SELECT count(*) AS n FROM runs WHERE status = ? AND creator = ? AND trigger IN ({places})",
        (RunStatus.PENDING, principal, *triggers),
    ).fetchone()["n"]
    if count >= MOST_PENDING:
        runs = plural(count, "pending run")
        raise LimitError(
            f"{principal} has already {verb} {runs}, and {MOST_PENDING} is the limit; "
            "wait until some have started, or cancel some (agentcron runs cancel)"
        )


def check_created(tx: Transaction, principal: str, now: datetime) -> None:
    """Raise LimitError if a principal may not create another schedule now."""
    count = tx.execute(
        "SELECT count(*) AS n FROM schedules WHERE source = 'created' AND creator = ? "
        "AND (deleted_at IS NULL OR deleted_at > ?)",
        (principal, format_instant(now - _DAY)),
    ).fetchone()["n"]
    if count >= MOST_CREATED:
        raise LimitError(
            f"{principal} has created {count} schedules that exist or were deleted within a day, and {MOST_CREATED} "
            "is the limit; delete some that are not needed, and create more a day later"
        )


def size_of_revision(tx: Transaction, schedule_id: int, version: int) -> int:
    """Return about how many bytes a revision takes."""
    row = tx.execute(
        "SELECT length(changes) + coalesce(length(note), 0) AS n FROM schedule_revisions "
        "WHERE schedule_id = ? AND version = ?",
        (schedule_id, version),
    ).fetchone()
    return _FIXED + (int(row["n"]) if row else 0)
