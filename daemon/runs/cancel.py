"""Cancels runs: sets a flag in the database that ends an active run, and cancels a pending run at once."""

from collections.abc import Mapping
from datetime import datetime
from types import MappingProxyType

from daemon.errors import RefusedError
from daemon.model import ACTIVE, FireOutcome, RunStatus
from daemon.store.cancellations import Flag, cancellation_flags, flag_cancellation, flag_of
from daemon.store.connection import Transaction, concerns_others
from daemon.store.events import DELIVERY_UNCONFIRMED, count_events
from daemon.store.fires import mark_unstarted
from daemon.store.runs import Run, change_status, get_run


def request_cancellation(tx: Transaction, run_id: int, now: datetime, by: str) -> None:
    """Request the cancellation of an active run; raise RefusedError if it has ended."""
    current = get_run(tx, run_id)
    if current is None or current.status not in ACTIVE:
        raise RefusedError(f"run {run_id} has already ended ({current.status if current else 'deleted'})")
    flag_cancellation(tx, run_id, now, by)
    flag = flag_of(tx, run_id)
    if flag is not None:
        _cancel_if_pending(tx, flag, now)


def cancel_pending(tx: Transaction, now: datetime) -> tuple[list[Flag], dict[int, Exception]]:
    """Cancel the pending runs that are flagged; return the flags of all active runs, and which could not be cancelled.

    One that cannot be cancelled does not affect the others.
    """
    flags, failures = cancellation_flags(tx), {}
    for flag in flags:
        try:
            with tx.savepoint():
                _cancel_if_pending(tx, flag, now)
        except Exception as error:
            if concerns_others(error):
                raise
            failures[flag.run_id] = error
    return flags, failures


def _cancel_if_pending(tx: Transaction, flag: Flag, now: datetime) -> None:
    run = get_run(tx, flag.run_id)
    if run is not None and run.status is RunStatus.PENDING:
        drop(tx, run, now, FireOutcome.SKIPPED_REQUESTED, flag.explanation)


def drop(
    tx: Transaction,
    run: Run,
    now: datetime,
    outcome: FireOutcome,
    reason: str,
    columns: Mapping[str, object] = MappingProxyType({}),
) -> None:
    """Cancel a run that waits or never started; its due time gets the outcome unless it has ever started.

    `columns` are set with it. If an agent behind a URL may have the input from an earlier daemon, the queue asks it to
    stop once this is committed.
    """
    change_status(tx, run, RunStatus.CANCELLED, now, {**columns, "error": reason})
    mark_unstarted(tx, run.id, outcome, reason)
    if count_events(tx, run.id, DELIVERY_UNCONFIRMED):
        tx.changes.unconfirmed.append(run.id)
