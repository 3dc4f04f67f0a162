"""Rows of `trigger_keys` and `start_keys`: which run a request with an Idempotency-Key created."""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from daemon.errors import RefusedError
from daemon.store.connection import Transaction


@dataclass(frozen=True)
class KeyScope:
    """Among which requests a key names one."""

    table: str
    column: str
    value: int | str

    @classmethod
    def of_schedule(cls, schedule_id: int) -> "KeyScope":
        """Return the scope of the triggers of a schedule."""
        return cls("trigger_keys", "schedule_id", schedule_id)

    @classmethod
    def of_agent(cls, agent: str) -> "KeyScope":
        """Return the scope of the starts of an agent without a schedule."""
        return cls("start_keys", "agent", agent)


def run_of_key(tx: Transaction, scope: KeyScope, key: str | None, request: Mapping[str, Any]) -> int | None:
    """Return the run that an earlier request with this key created, None if there was none or without a key.

    Raise RefusedError if the key was used for another request.
    """
    if key is None:
        return None
    row = tx.execute(
        f"SELECT request, run_id FROM {scope.table} WHERE {scope.column} = ? AND key = ?", (scope.value, key)
    ).fetchone()
    if row is not None and row["request"] != _digest(request):
        raise RefusedError(
            f"the Idempotency-Key {key!r} was already used for another request, which started run {row['run_id']}"
        )
    return int(row["run_id"]) if row is not None else None


def remember_key(tx: Transaction, scope: KeyScope, key: str | None, request: Mapping[str, Any], run_id: int) -> None:
    """Record which run a request with a key created."""
    if key is not None:
        tx.execute(
            f"INSERT INTO {scope.table} ({scope.column}, key, request, run_id) VALUES (?, ?, ?, ?)",
            (scope.value, key, _digest(request), run_id),
        )


def _digest(request: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(dict(request), sort_keys=True).encode()).hexdigest()
