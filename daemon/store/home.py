"""What every part of one running daemon works on: its database, its state directory, its identity and its time."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from daemon.store.database import Database
from daemon.units import utc_now


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


def instance_id(connection: sqlite3.Connection) -> str:
    """Return the identity of a database."""
    return str(connection.execute("SELECT id FROM instance").fetchone()["id"])
