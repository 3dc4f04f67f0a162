"""Rows of `trigger_keys`: which run a trigger with an Idempotency-Key created."""

from dataclasses import dataclass

from daemon.store.connection import Transaction


@dataclass(frozen=True)
class KnownTrigger:
    """A trigger that was handled earlier."""

    request: str
    """A digest of the request."""
    run_id: int


def find_trigger(tx: Transaction, schedule_id: int, key: str) -> KnownTrigger | None:
    """Return the earlier trigger of a schedule with this key, None if there was none."""
    row = tx.execute(
        "SELECT request, run_id FROM trigger_keys WHERE schedule_id = ? AND key = ?", (schedule_id, key)
    ).fetchone()
    return KnownTrigger(row["request"], row["run_id"]) if row else None


def remember_trigger(tx: Transaction, schedule_id: int, key: str, request: str, run_id: int) -> None:
    """Record which run a key belongs to."""
    tx.execute(
        "INSERT INTO trigger_keys (schedule_id, key, request, run_id) VALUES (?, ?, ?, ?)",
        (schedule_id, key, request, run_id),
    )
