"""Rows of `events` and `steps`: what happened in a run, in order."""

import json
import sqlite3
from datetime import datetime
from typing import Any

from daemon.model import Step
from daemon.store.connection import Transaction
from daemon.units import format_instant

_LONGEST_DATA = 4 * 1024 * 1024
EVENT_DATA = f"""iif(length(data) <= {_LONGEST_DATA}, data, '{{"omitted": "it is longer than 4 MiB"}}')"""
"""The SQL of the data of an event; without what only a damaged database has."""
DELIVERY_FAILED = "delivery_failed"
"""The kind of the event of a failed attempt: its number in `try`, and a `reason` that begins with the call's name."""
DELIVERY_UNCONFIRMED = "delivery_unconfirmed"
"""The kind of the event of an attempt that a daemon left: the agent may have the input, but has not acknowledged it."""

PERMISSION_DENIED = "permission_denied"
"""The kind of the event of each permission that the agent was denied: `what` it asked for."""

USAGE = "usage"
"""The kind of the event of what each model used, if the agent tells that."""

SESSION_BEGUN = "session_begun"
"""The kind of the event of a run that begins a session although its schedule continues them: the `reason`."""

SESSION_CONTINUED = "session_continued"
"""The kind of the event of a run that is given a `session` to continue."""

SESSION_CHANGED = "session_changed"
"""The kind of the event of an agent that goes on under another id: `from` and `to`."""

SESSION_REFUSED = "session_refused"
"""The kind of the event of a session that was to be continued and is not: the `reason`."""


def add_event(tx: Transaction, run_id: int, now: datetime, kind: str, data: dict[str, Any]) -> None:
    """Append an event to a run."""
    tx.execute(
        "INSERT INTO events (run_id, number, at, type, data) "
        "SELECT ?1, coalesce(max(number), 0) + 1, ?2, ?3, ?4 FROM events WHERE run_id = ?1",
        (run_id, format_instant(now), kind, json.dumps(data)),
    )


def failed_attempts(source: Transaction | sqlite3.Connection, run_id: int) -> dict[str, int]:
    """Return how many delivery attempts of a run have failed, by the name of the call."""
    rows = source.execute(
        f"SELECT data FROM events WHERE run_id = ? AND type = ? AND length(data) <= {_LONGEST_DATA}",
        (run_id, DELIVERY_FAILED),
    )
    found: dict[str, int] = {}
    for data in (json.loads(row["data"]) for row in rows):
        call = str(data["reason"]).partition(": ")[0]
        found[call] = max(found.get(call, 0), int(data["try"]))
    return found


def count_events(source: Transaction | sqlite3.Connection, run_id: int, kind: str) -> int:
    """Return how many events of a kind a run has."""
    row = source.execute("SELECT count(*) AS n FROM events WHERE run_id = ? AND type = ?", (run_id, kind)).fetchone()
    return int(row["n"])


def begin_step(tx: Transaction, run_id: int, step: Step, now: datetime) -> None:
    """Record that a run entered a step; a step that is entered again starts over."""
    tx.execute(
        "INSERT OR REPLACE INTO steps (run_id, name, started_at) VALUES (?, ?, ?)",
        (run_id, step, format_instant(now)),
    )


def end_step(tx: Transaction, run_id: int, step: Step, now: datetime, error: str | None = None) -> None:
    """Record that a run left a step."""
    tx.execute(
        "UPDATE steps SET completed_at = ?, error = ? WHERE run_id = ? AND name = ? AND completed_at IS NULL",
        (format_instant(now), error, run_id, step),
    )


def end_open_steps(tx: Transaction, run_id: int, now: datetime, error: str | None) -> None:
    """Record that a run left whatever step it was in."""
    tx.execute(
        "UPDATE steps SET completed_at = ?, error = ? WHERE run_id = ? AND completed_at IS NULL",
        (format_instant(now), error, run_id),
    )


def forget_steps(tx: Transaction, run_id: int) -> None:
    """Remove the steps of a run that begins anew."""
    tx.execute("DELETE FROM steps WHERE run_id = ?", (run_id,))
