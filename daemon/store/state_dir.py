"""Open a state directory for a daemon: create or migrate the database and compare it with its witness."""

import contextlib
import os
import sqlite3
from datetime import datetime
from pathlib import Path

from daemon.disk_room import NO_ROOM
from daemon.errors import AgentcronError, DiskFullError, StoreError
from daemon.model import DATABASE, DATABASE_PARTS, OWN_TABLES, STATE_FOLDERS, WITNESS
from daemon.store.ballast import LEAST_FREE, Ballast
from daemon.store.connection import code_of, connect
from daemon.store.database import Database
from daemon.store.migrate import migrate, migrations, newer_schema
from daemon.store.private_file import open_or_create
from daemon.store.witness import Witness, WitnessFile, agree, find_loss, read_witness, witness_of


def open_state(state_dir: Path, now: datetime, *, accept_data_loss: bool) -> Database:
    """Prepare the database of a locked state directory and return it, ready to be entered.

    Raise StoreError, and change nothing, if it is damaged, not agentcron's, newer than this version, or not the one
    that its witness describes. Raise DiskFullError if SQLite finds no room for the files that it opens a database with.
    """
    ballast = None
    try:
        for folder in STATE_FOLDERS:
            (state_dir / folder).mkdir(mode=0o700, exist_ok=True)
        ballast = Ballast(state_dir)
        lost = _open(state_dir, now, accept_data_loss=accept_data_loss)
    except sqlite3.OperationalError as error:
        if ballast is None or code_of(error) == sqlite3.SQLITE_BUSY or not ballast.release():
            raise _unusable(state_dir / DATABASE, error) from None
        try:  # a full disk may have been the only problem
            lost = _open(state_dir, now, accept_data_loss=accept_data_loss)
        except sqlite3.Error as again:
            raise _unusable(state_dir / DATABASE, again) from None
    except sqlite3.Error as error:
        raise _unusable(state_dir / DATABASE, error) from None
    except OSError as error:
        kind = DiskFullError if error.errno in NO_ROOM else StoreError
        raise kind(f"{state_dir} cannot be used: {error.strerror}: {error.filename}") from None
    for private in (*(DATABASE + part for part in DATABASE_PARTS), WITNESS):
        with contextlib.suppress(FileNotFoundError):
            (state_dir / private).chmod(0o600)
    return Database(state_dir / DATABASE, WitnessFile(state_dir), ballast, lost=lost)


def _open(state_dir: Path, now: datetime, *, accept_data_loss: bool) -> bool:
    """Open, create or migrate the database; return whether a loss was accepted."""
    path = state_dir / DATABASE
    found = _inspect(path)
    loss = find_loss(read_witness(state_dir), found)
    if loss and not accept_data_loss:
        raise StoreError(
            f"{path} {loss}; nothing was changed. Restore a backup with `agentcron restore`, or, to continue without "
            "the lost data, start once with `agentcron run --accept-data-loss`"
        )
    if found is None:
        _create(path)
    connection = connect(path)
    try:
        connection.execute("PRAGMA journal_mode = WAL")
        migrate(connection, path, migrations())
        agree(connection, state_dir, now, lost=loss is not None)
    finally:
        connection.close()
    return loss is not None


def _unusable(path: Path, error: sqlite3.Error) -> AgentcronError:
    problem = f"{path} cannot be used: {error}"
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return StoreError(f"{problem}; stop the daemon and restore a backup with `agentcron restore`")
    disk = os.statvfs(path.parent)
    if code_of(error) == sqlite3.SQLITE_FULL or disk.f_bavail * disk.f_frsize < LEAST_FREE:
        return DiskFullError(f"{problem}; the disk is full: free some space")
    return StoreError(problem)


def _inspect(path: Path) -> Witness | None:
    """Return the witness that describes an existing database, None if it is missing or empty; change nothing."""
    if not os.path.lexists(path) or path.lstat().st_size == 0:
        return None
    connection = connect(path, read_only=True)
    try:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > max(migrations()):
            raise newer_schema(path, version)
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if tables and not tables >= OWN_TABLES:
            raise StoreError(f"{path} is not a database of agentcron; nothing was changed. Move it to another place")
        return witness_of(connection) if tables else None
    finally:
        connection.close()


def _create(path: Path) -> None:
    os.close(open_or_create(path, os.O_RDWR))
    connection = connect(path)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")  # writes the first page, which fixes auto_vacuum
    finally:
        connection.close()
