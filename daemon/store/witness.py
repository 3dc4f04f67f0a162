"""The witness: a file beside the database that records the database's identity and its highest run number.

It tells a new database from one that was emptied or replaced or that lost its last writes, where SQLite itself reports
no error.
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
from daemon.store.private_file import open_private, read_private, replace_file
from daemon.units import format_instant

_LENGTH = 160  # bytes; fixed, so that the file can be overwritten in place
_LONGEST = 4096  # bytes that are read, whatever an agent wrote
_HIGHEST = 2**62  # of a number that is believed; SQLite's integers end at 2**63
_MARGIN = 1000  # after an accepted loss: run numbers that may have been used after the witness was last synced
_SYNC_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class Witness:
    """The database's identity, its highest run number, and how many groups of writes it has committed."""

    instance: str
    highest_run: int
    commits: int

    def encode(self) -> bytes:
        """Return the file's content, always of the same length."""
        return json.dumps(asdict(self)).ljust(_LENGTH - 1).encode() + b"\n"


class WitnessFile:
    """The open witness file of a running daemon, written after each commit."""

    def __init__(self, state_dir: Path) -> None:
        self._synced = time.monotonic()
        self._descriptor = open_private(state_dir / WITNESS, os.O_WRONLY)

    def record(self, witness: Witness) -> None:
        """Write the witness; it survives a killed daemon at once, and a power cut except for the last second."""
        os.pwrite(self._descriptor, witness.encode(), 0)
        if time.monotonic() - self._synced > _SYNC_EVERY:
            os.fdatasync(self._descriptor)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Sync the file and close it."""
        os.fdatasync(self._descriptor)
        os.close(self._descriptor)


def read_witness(state_dir: Path) -> Witness | None:
    """Return the content of the file, None if there is none; raise StoreError if it is unreadable."""
    path = state_dir / WITNESS
    try:
        content = json.loads(read_private(path, _LONGEST))
        found = Witness(str(content["instance"]), int(content["highest_run"]), int(content["commits"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        reason = error.strerror if isinstance(error, OSError) else str(error)
        raise StoreError(f"{path} cannot be read ({reason}); restore it or the whole state directory") from None
    if not (0 <= found.highest_run < _HIGHEST and 0 <= found.commits < _HIGHEST):
        raise StoreError(f"{path} cannot be read (numbers out of range); restore it or the whole state directory")
    return found


def write_witness(state_dir: Path, witness: Witness) -> None:
    """Write the file atomically, and return once it is on disk."""
    replace_file(state_dir / WITNESS, witness.encode())


def find_loss(witness: Witness | None, found: Witness | None) -> str | None:
    """Return what a database lost compared with its witness, None if nothing; the text continues its path."""
    if witness is None:
        return None
    if found is None:
        return "is missing or empty, but its witness file shows that it existed"
    if found.instance != witness.instance:
        return "is not the database that its witness file describes"
    if found.highest_run < witness.highest_run or found.commits < witness.commits:
        return "is older than its witness file: its last writes are lost"
    return None


def witness_of(connection: sqlite3.Connection) -> Witness | None:
    """Return the witness that describes a database, None if the database was never used."""
    row = connection.execute(
        "SELECT id, commits, coalesce((SELECT seq FROM sqlite_sequence WHERE name = 'runs'), 0) AS highest "
        "FROM instance"
    ).fetchone()
    return Witness(row["id"], row["highest"], row["commits"]) if row else None


def agree(connection: sqlite3.Connection, state_dir: Path, now: datetime, *, lost: bool) -> None:
    """Make database and witness agree: a new database, or one with an accepted loss, gets a new identity.

    After a loss, run numbers continue above the highest ever used.
    """
    witness, found = read_witness(state_dir), witness_of(connection)
    if found is None or lost:
        reached = max(witness.highest_run if witness else 0, found.highest_run if found else 0)
        connection.execute("BEGIN IMMEDIATE")
        found = renew(connection, reached, now, lost=lost)
        connection.execute("COMMIT")
    if found != witness:
        write_witness(state_dir, found)


def renew(connection: sqlite3.Connection, reached: int, now: datetime, *, lost: bool) -> Witness:
    """Give a database a new identity and continue its run numbers above `reached`; call it in a transaction."""
    new = Witness(secrets.token_hex(16), reached + (_MARGIN if lost else 0), 0)
    clock = connection.execute("SELECT clock_trusted_at, clock_off_ms FROM instance").fetchone() or (None, None)
    connection.execute("DELETE FROM instance")
    connection.execute(
        "INSERT INTO instance (id, created_at, clock_trusted_at, clock_off_ms) VALUES (?, ?, ?, ?)",
        (new.instance, format_instant(now), *clock),
    )
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'runs'")
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('runs', ?)", (new.highest_run,))
    return new
