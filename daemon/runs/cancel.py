"""Cancels runs: sets a flag in the database that ends an active run, and cancels a pending run at once."""

from datetime import datetime

from daemon.errors import RefusedError
from daemon.model import ACTIVE, RunStatus
from daemon.store.cancellations import Flag, cancellation_flags, flag_cancellation
from daemon.store.connection import Transaction
from daemon.store.runs import change_status, get_run


def request_cancellation(tx: Transaction, run_id: int, now: datetime, by: str) -> None:
    """Request the cancellation of an active run; raise RefusedError if it has ended."""
    current = get_run(tx, run_id)
    if current is None or current.status not in ACTIVE:
        raise RefusedError(f"run {run_id} has already ended ({current.status if current else 'deleted'})")
    flag_cancellation(tx, run_id, now, by)
    cancel_pending(tx, now)


def cancel_pending(tx: Transaction, now: datetime) -> list[Flag]:
    """Cancel the pending runs that are flagged; return the flags of all active runs."""
    flags = cancellation_flags(tx)
    for flag in flags:
        run = get_run(tx, flag.run_id)
        if run is not None and run.status is RunStatus.PENDING:
            change_status(tx, run, RunStatus.CANCELLED, now, {"error": flag.explanation})
    return flags
