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
from daemon.units import format_instant

NAME = "witness.json"
_LENGTH = 128  # fixed, so that the file can be written over in place
_MARGIN = 1000  # after an accepted loss: numbers that may have been given after the last word of the witness
_SYNC_EVERY = 1.0  # seconds


@dataclass(frozen=True)
class Witness:
    """The database's identity, and the highest run number that it is known to have given."""

    instance: str
    highest_run: int

    def encode(self) -> bytes:
        """Return the file's content, always of the same length."""
        return json.dumps(asdict(self)).ljust(_LENGTH - 1).encode() + b"\n"


class WitnessFile:
    """The open witness of a running daemon, told of the highest run number after each commit."""

    def __init__(self, state_dir: Path, witness: Witness) -> None:
        self._witness = witness
        self._synced = time.monotonic()
        self._descriptor = os.open(state_dir / NAME, os.O_WRONLY | os.O_CLOEXEC)

    def record(self, highest_run: int) -> None:
        """Note the highest number; it survives the daemon at once and a power cut within about a second."""
        if highest_run == self._witness.highest_run:
            return
        self._witness = Witness(self._witness.instance, highest_run)
        os.pwrite(self._descriptor, self._witness.encode(), 0)
        if time.monotonic() - self._synced > _SYNC_EVERY:
            os.fdatasync(self._descriptor)
            self._synced = time.monotonic()

    def close(self) -> None:
        """Leave the last number on the disk."""
        os.fdatasync(self._descriptor)
        os.close(self._descriptor)


def read_witness(state_dir: Path) -> Witness | None:
    """Return what the file says, None if there is none; raise StoreError if it cannot be understood."""
    path = state_dir / NAME
    try:
        content = json.loads(path.read_text())
        return Witness(str(content["instance"]), int(content["highest_run"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise StoreError(f"{path} cannot be read ({error}); restore it or the whole state directory") from None


def write_witness(state_dir: Path, witness: Witness) -> None:
    """Put the file in place, whole or not at all, and on the disk before returning."""
    fresh = (state_dir / NAME).with_suffix(".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
    try:
        os.write(descriptor, witness.encode())
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
    fresh.replace(state_dir / NAME)
    folder = os.open(state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


def confront(connection: sqlite3.Connection, state_dir: Path, now: datetime, *, accept_data_loss: bool) -> Witness:
    """Compare database and witness, make them agree, and return the witness.

    Raise StoreError if the database is not the one the witness knows, unless its loss is accepted: then the
    database gets a new identity and run numbers go on above the highest ever given.
    """
    witness = read_witness(state_dir)
    row = connection.execute("SELECT id FROM instance").fetchone()
    instance = row["id"] if row else None
    highest = highest_run(connection)
    loss = _loss(witness, instance, highest)
    if loss and not accept_data_loss:
        raise StoreError(
            f"{state_dir}/state.db {loss}; nothing was changed. Restore it with `agentcron restore FILE`, or, to go "
            "on without what is lost, start once with `agentcron run --accept-data-loss`"
        )
    if instance is None or loss:
        instance = secrets.token_hex(16)
        connection.execute("DELETE FROM instance")
        connection.execute("INSERT INTO instance VALUES (?, ?)", (instance, format_instant(now)))
    reached = max(highest, witness.highest_run if witness else 0)
    if loss:
        reached += _MARGIN
        _continue_numbers(connection, reached)
    agreed = Witness(instance, reached)
    if agreed != witness:
        write_witness(state_dir, agreed)
    return agreed


def _loss(witness: Witness | None, instance: str | None, highest: int) -> str | None:
    """Say what the database lost, if anything."""
    if witness is None:
        return None
    if instance is None:
        return "is empty, but its witness file knows an earlier one"
    if instance != witness.instance:
        return "is another database than the one its witness file knows"
    if highest < witness.highest_run:
        return f"knows runs up to {highest}, but its witness file knows of {witness.highest_run}: its tail is lost"
    return None


def highest_run(connection: sqlite3.Connection) -> int:
    """Return the highest run number that the database has given."""
    row = connection.execute("SELECT seq FROM sqlite_sequence WHERE name = 'runs'").fetchone()
    return int(row["seq"]) if row else 0


def _continue_numbers(connection: sqlite3.Connection, reached: int) -> None:
    connection.execute("DELETE FROM sqlite_sequence WHERE name = 'runs'")
    connection.execute("INSERT INTO sqlite_sequence (name, seq) VALUES ('runs', ?)", (reached,))
