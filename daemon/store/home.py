"""What every part of one running daemon works on: database, state directory, identity, time, and current problems."""

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from daemon.problems import Problems
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
    problems: Problems = field(default_factory=Problems)


def instance_id(connection: sqlite3.Connection) -> str:
    """Return the identity of a database."""
    return str(connection.execute("SELECT id FROM instance").fetchone()["id"])
