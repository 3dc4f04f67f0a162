"""A file beside the database that remembers who the database is and how far runs were numbered.

It tells a new database from one that was emptied, replaced, or lost its tail, where SQLite itself says ok.
"""

import json
import os
import secrets
import sqlite3
import time
from dataclasses import asdict, dataclass
from datetime import datetime
from pathlib import Path

from daemon.errors import StoreError
from daemon.model import WITNESS
from daemon.units import format_instant

_LENGTH = 160  # fixed, so that the file can be written over in place
_MARGIN = 1000  # after an accepted loss: numbers that may have been given after the last word of the witness
_SYNC_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class Witness:
    """The database's identity, the highest run number it has given, and how far its writes have come."""

    instance: str
    highest_run: int
    commits: int

    def encode(self) -> bytes:
        """Return the file's content, always of the same length."""
        return json.dumps(asdict(self)).ljust(_LENGTH - 1).encode() + b"\n"


class WitnessFile:
    """The open witness of a running daemon, told after each commit how far the database has come."""

    def __init__(self, state_dir: Path) -> None:
        self._synced = time.monotonic()
        self._descriptor = os.open(state_dir / WITNESS, os.O_WRONLY | os.O_CLOEXEC)

    def record(self, witness: Witness) -> None:
        """Write it down; it survives the daemon at once, and a power cut takes back what it says of the last second."""
        os.pwrite(self._descriptor, witness.encode(), 0)
        if time.monotonic() - self._synced > _SYNC_EVERY:
            os.fdatasync(self._descriptor)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Leave the last word on the disk."""
        os.fdatasync(self._descriptor)
        os.close(self._descriptor)


def read_witness(state_dir: Path) -> Witness | None:
    """Return what the file says, None if there is none; raise StoreError if it cannot be understood."""
    path = state_dir / WITNESS
    try:
        content = json.loads(path.read_text())
        return Witness(str(content["instance"]), int(content["highest_run"]), int(content["commits"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); restore it or the whole state directory") from None


def write_witness(state_dir: Path, witness: Witness) -> None:
    """Put the file in place, whole or not at all, and on the disk before returning."""
    fresh = (state_dir / WITNESS).with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, witness.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(state_dir / WITNESS)
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def find_loss(witness: Witness | None, found: Witness | None) -> str | None:
    """Say what a database lost in comparison with its witness, None if nothing."""
    if witness is None:
        return None
    if found is None:
        return "is gone or empty, but its witness file knows it"
    if found.instance != witness.instance:
        return "is another database than the one its witness file knows"
    if found.highest_run < witness.highest_run or found.commits < witness.commits:
        return "is older than its witness file: its tail is lost"
    return None


def testify(connection: sqlite3.Connection) -> Witness | None:
    """Return what a database says of itself, None if it never was agentcron's."""
    row = connection.execute(
        "SELECT id, commits, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'runs'), 0) AS highest "
        "FROM instance"
    ).fetchone()
    return Witness(row["id"], row["highest"], row["commits"]) if row else None


def agree(connection: sqlite3.Connection, state_dir: Path, now: datetime, *, lost: bool) -> None:
    """Make database and witness agree: a new or accepted database gets an identity of its own.

    After a loss, run numbers go on above the highest ever given.
    """
    witness, found = read_witness(state_dir), testify(connection)
    if found is None or lost:
        reached = max(witness.highest_run if witness else 0, found.highest_run if found else 0)
        connection.execute("BEGIN IMMEDIATE")
        found = renew(connection, reached, now, lost=lost)
        connection.execute("COMMIT")
    if found != witness:
        write_witness(state_dir, found)


def renew(connection: sqlite3.Connection, reached: int, now: datetime, *, lost: bool) -> Witness:
    """Give a database an identity of its own, and have its run numbers go on above `reached`, within a transaction."""
    new = Witness(secrets.token_hex(16), reached + (_MARGIN if lost else 0), 0)
    connection.execute("DELETE FROM instance")
    connection.execute("INSERT INTO instance (id, created_at) VALUES (?, ?)", (new.instance, format_instant(now)))
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'runs'")
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('runs', ?)", (new.highest_run,))
    return new
