"""Rows of `hooks`: the tokens by which an agent may end its run, their expiry, and whether they were used."""

import sqlite3
from datetime import datetime

from daemon.store.connection import Transaction
from daemon.units import format_instant


def add_hook(tx: Transaction, run_id: int, token_hash: str, now: datetime, expires: datetime) -> None:
    """Add the token that may end a run; a redelivery uses the same token and restarts its lifetime."""
    tx.execute(
        "INSERT INTO hooks (run_id, token_hash, created_at, expires_at) VALUES (?, ?, ?, ?) "
        "ON CONFLICT (run_id, token_hash) DO UPDATE SET expires_at = excluded.expires_at",
        (run_id, token_hash, format_instant(now), format_instant(expires)),
    )


def run_of_hook(connection: sqlite3.Connection, token_hash: str, now: datetime) -> int | None:
    """Return the active run that a token may end, None if the token is unknown, used or expired."""
    row = connection.execute(
        "SELECT run_id FROM hooks JOIN runs ON runs.id = run_id "
        "WHERE token_hash = ? AND used_at IS NULL AND expires_at > ? AND completed_at IS NULL",
        (token_hash, format_instant(now)),
    ).fetchone()
    return None if row is None else int(row["run_id"])


def use_hook(tx: Transaction, token_hash: str, now: datetime) -> int | None:
    """Mark a token as used and return its run, None if the token is unknown, used or expired."""
    at = format_instant(now)
    row = tx.execute(
        "UPDATE hooks SET used_at = ?1 WHERE token_hash = ?2 AND used_at IS NULL AND expires_at > ?1 RETURNING run_id",
        (at, token_hash),
    ).fetchone()
    return None if row is None else int(row["run_id"])
