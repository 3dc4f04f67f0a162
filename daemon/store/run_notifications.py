"""Rows of `run_notifications`: what became of the notifications about the end of a run, kept as long as the run."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from daemon.store.connection import Transaction
from daemon.units import format_instant

_MOST_SHOWN = 100
_LONGEST_SHOWN = 300
"""Characters of a reason and of a name that are shown; agentcron writes no more."""
_SILENCED = "the agent asked to send nothing"


@dataclass(frozen=True)
class NotificationEnd:
    """How the attempts to send one event to one target ended."""

    state: Literal["notified", "refused", "dropped"]
    """`refused` by the target, or `dropped` without it: after a day of attempts, or because it is no longer there."""
    reason: str | None = None


def begin_notification(tx: Transaction, run_id: int, target: str, kind: str, now: datetime, notification: int) -> None:
    """Record that a notification about the end of a run waits to be sent."""
    _set(tx, run_id, target, kind, now, state="pending", notification=notification)


def silence_notification(tx: Transaction, run_id: int, target: str, kind: str, now: datetime) -> None:
    """Record that a target is not told of the end of a run, because the agent asked for that."""
    _set(tx, run_id, target, kind, now, state="silenced", reason=_SILENCED)


def _set(
    tx: Transaction,
    run_id: int,
    target: str,
    kind: str,
    now: datetime,
    *,
    state: str,
    reason: str | None = None,
    notification: int | None = None,
) -> None:
    tx.execute(
        "INSERT OR REPLACE INTO run_notifications (run_id, target, event, state, reason, at, notification) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (run_id, target, kind, state, reason, format_instant(now), notification),
    )


def note_failed_attempt(tx: Transaction, notification: int, reason: str, now: datetime) -> None:
    """Record why a notification could not be sent yet."""
    tx.execute(
        "UPDATE run_notifications SET reason = ?, at = ? WHERE notification = ?",
        (reason, format_instant(now), notification),
    )


def end_notification(tx: Transaction, notification: int, end: NotificationEnd, now: datetime) -> None:
    """Record what became of a notification that leaves the outbox; nothing if its run was deleted meanwhile."""
    tx.execute(
        "UPDATE run_notifications SET state = ?, reason = ?, at = ?, notification = NULL WHERE notification = ?",
        (end.state, end.reason, format_instant(now), notification),
    )


def drop_run_notifications(tx: Transaction, reason: str, now: datetime) -> None:
    """Record that nothing of what waits is sent."""
    tx.execute(
        "UPDATE run_notifications SET state = 'dropped', reason = ?, at = ?, notification = NULL "
        "WHERE notification IS NOT NULL",
        (reason, format_instant(now)),
    )


def notifications_of(connection: sqlite3.Connection, run_id: int) -> list[dict[str, Any]]:
    """Return what became of the notifications about a run, at most 100, by target."""
    rows = connection.execute(
        "SELECT substr(target, 1, ?2) AS target, substr(event, 1, ?2) AS event, state, "
        "substr(reason, 1, ?2) AS reason, at FROM run_notifications WHERE run_id = ?1 ORDER BY target, event LIMIT ?3",
        (run_id, _LONGEST_SHOWN, _MOST_SHOWN),
    )
    return [dict(row) for row in rows]
