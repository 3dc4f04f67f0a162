"""What every part of one running daemon works on: database, state directory, identity, time, and current problems."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from daemon.problems import Problems
from daemon.store.database import Database
from daemon.units import parse_instant, utc_now


@dataclass(frozen=True)
class Home:
    """One daemon's database and state directory."""

    database: Database
    state_dir: Path
    instance: str
    """The identity of the database, from which idempotency keys are derived."""
    started: datetime
    """When this daemon started."""
    now: Callable[[], datetime] = utc_now
    problems: Problems = field(default_factory=Problems)
    newest: datetime | None = None
    """The newest instant in the database when this daemon opened it; None if there was none."""


def instance_id(connection: sqlite3.Connection) -> str:
    """Return the identity of a database."""
    return str(connection.execute("SELECT id FROM instance").fetchone()["id"])


def newest_instant(connection: sqlite3.Connection) -> datetime | None:
    """Return the newest instant at which something certainly happened, None if nothing has."""
    row = connection.execute(
        "SELECT max((SELECT coalesce(max(max(coalesce(cursor, ''), updated_at)), '') FROM schedules), "
        "coalesce((SELECT updated_at FROM runs ORDER BY id DESC LIMIT 1), '')) AS newest"
    ).fetchone()
    try:
        return parse_instant(row["newest"])
    except ValueError:  # nothing, or somebody edited it
        return None
