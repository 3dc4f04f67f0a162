"""Rows of `trigger_keys`: which run answered a trigger under an Idempotency-Key."""

from dataclasses import dataclass

from daemon.store.connection import Transaction


@dataclass(frozen=True)
class KnownTrigger:
    """A trigger that was answered."""

    request: str
    """A digest of what was asked for."""
    run_id: int


def find_trigger(tx: Transaction, schedule_id: int, key: str) -> KnownTrigger | None:
    """Return the trigger of a schedule that had this key."""
    row = tx.execute(
        "SELECT request, run_id FROM trigger_keys WHERE schedule_id = ? AND key = ?", (schedule_id, key)
    ).fetchone()
    return KnownTrigger(row["request"], row["run_id"]) if row else None


def remember_trigger(tx: Transaction, schedule_id: int, key: str, request: str, run_id: int) -> None:
    """Note which run answers a key from now on."""
    tx.execute(
        "INSERT INTO trigger_keys (schedule_id, key, request, run_id) VALUES (?, ?, ?, ?)",
        (schedule_id, key, request, run_id),
    )
