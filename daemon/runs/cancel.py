"""Cancels runs: sets a flag in the database that ends an active run, and cancels a pending run at once."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from types import MappingProxyType

from daemon.errors import RefusedError
from daemon.model import ACTIVE, FireOutcome, RunStatus
from daemon.store.cancellations import Flag, cancellation_flags, flag_cancellation, flag_of
from daemon.store.connection import Transaction, concerns_others
from daemon.store.events import DELIVERY_UNCONFIRMED, count_events
from daemon.store.fires import mark_unstarted
from daemon.store.runs import Run, bulk_of, change_status, get_run

MOST_REWRITTEN = 2 * 1024 * 1024
"""Bytes of runs that one transaction changes, since each change writes the whole row again: 10 ms a megabyte."""


def request_cancellation(tx: Transaction, run_id: int, now: datetime, by: str) -> None:
    """Request the cancellation of an active run; raise RefusedError if it has ended."""
    current = get_run(tx, run_id)
    if current is None or current.status not in ACTIVE:
        raise RefusedError(f"run {run_id} has already ended ({current.status if current else 'deleted'})")
    flag_cancellation(tx, run_id, now, by)
    flag = flag_of(tx, run_id)
    if flag is not None:
        _cancel_if_pending(tx, flag, now)


@dataclass(frozen=True)
class Cancelled:
    """What one transaction has done about the flags."""

    flags: list[Flag]
    """The flags of all runs that were active before it."""
    failures: dict[int, Exception]
    """Which runs could not be cancelled."""
    is_all: bool
    """Whether no other pending run is flagged."""


def cancel_pending(tx: Transaction, now: datetime, most: int = MOST_REWRITTEN) -> Cancelled:
    """Cancel the pending runs that are flagged, as many as take `most` bytes together.

    One that cannot be cancelled does not affect the others.
    """
    flags, left = cancellation_flags(tx), most
    failures: dict[int, Exception] = {}
    for flag in flags:
        if left <= 0:
            return Cancelled(flags, failures, is_all=False)
        try:
            with tx.savepoint():
                left -= _cancel_if_pending(tx, flag, now)
        except Exception as error:
            if concerns_others(error):
                raise
            failures[flag.run_id] = error
    return Cancelled(flags, failures, is_all=True)


def _cancel_if_pending(tx: Transaction, flag: Flag, now: datetime) -> int:
    """Cancel a flagged run if it is pending; return how many bytes that wrote again."""
    run = get_run(tx, flag.run_id)
    if run is None or run.status is not RunStatus.PENDING:
        return 0
    drop(tx, run, now, FireOutcome.SKIPPED_REQUESTED, flag.explanation)
    return bulk_of(tx, run.id)


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
