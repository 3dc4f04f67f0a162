"""What every part of one running daemon works on: database, state directory, time, problems and allowances."""

import asyncio
import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from weakref import WeakValueDictionary

from daemon.allowance import Allowance
from daemon.problems import Problems
from daemon.rules.clock_trust import ClockTrust
from daemon.store.connection import Transaction
from daemon.store.database import Database
from daemon.units import format_instant, parse_instant, utc_now


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
    allowance: Allowance = field(default_factory=Allowance)
    clock_trust: ClockTrust = field(default_factory=lambda: ClockTrust(None))
    """What the database held about the wall clock when this daemon opened it."""
    _turns: "WeakValueDictionary[tuple[str, str], asyncio.Lock]" = field(default_factory=WeakValueDictionary)

    def turn(self, environment: str, folder: str) -> asyncio.Lock:
        """Return the lock of a workspace's folder: whoever makes or removes it holds it, and records that meanwhile."""
        return self._turns.setdefault((environment, folder), asyncio.Lock())


def instance_id(connection: sqlite3.Connection) -> str:
    """Return the identity of a database."""
    return str(connection.execute("SELECT id FROM instance").fetchone()["id"])


def read_clock_trust(connection: sqlite3.Connection) -> ClockTrust:
    """Return what earlier daemons knew about the wall clock."""
    row = connection.execute("SELECT clock_trusted_at, clock_off_ms FROM instance").fetchone()
    try:
        newest, off_ms = parse_instant(row["clock_trusted_at"] or ""), row["clock_off_ms"]
        off_for = None if off_ms is None else timedelta(milliseconds=off_ms)
        return ClockTrust(newest, off_for, was_down=True, was_off=off_for is not None)
    except (ValueError, OverflowError):  # an earlier version wrote it, or somebody edited it
        return ClockTrust(_newest_instant(connection), was_down=True)


def note_clock_trust(tx: Transaction, trust: ClockTrust) -> None:
    """Record what is known about the wall clock."""
    off_ms = None if trust.off_for is None else trust.off_for // timedelta(milliseconds=1)
    newest = None if trust.newest is None else format_instant(trust.newest)
    tx.execute("UPDATE instance SET clock_trusted_at = ?, clock_off_ms = ?", (newest, off_ms))


def _newest_instant(connection: sqlite3.Connection) -> datetime | None:
    """Return the newest instant at which something certainly happened, None if nothing has."""
    row = connection.execute(
        "SELECT max((SELECT coalesce(max(max(coalesce(cursor, ''), updated_at)), '') FROM schedules), "
        "coalesce((SELECT updated_at FROM runs ORDER BY id DESC LIMIT 1), '')) AS newest"
    ).fetchone()
    try:
        return parse_instant(row["newest"])
    except ValueError:  # nothing, or somebody edited it
        return None
