"""Read a state directory's database outside its daemon, even where nothing can be written."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import StoreError
from daemon.store.bounded import bounded
from daemon.store.connection import code_of, connect, is_transient
from daemon.store.lock import running_daemon
from daemon.store.schema import check_schema

_DISK_ERRORS = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
_LEAST_FREE = 64 * 1024  # bytes that the index of the write-ahead log takes


def open_to_read(path: Path) -> sqlite3.Connection:
    """Open a database read-only that this process's daemon does not hold; raise sqlite3.Error if that fails.

    SQLite has to create a file or two beside it. If the disk is full or read-only, the database is opened as it is
    (https://www.sqlite.org/uri.html, immutable), provided that no daemon runs and no log holds later changes.
    """
    connection = connect(path, read_only=True)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if code_of(error) in _DISK_ERRORS and _is_at_rest(path):
            return connect(path, read_only=True, at_rest=True)
        raise
    return connection


@contextlib.contextmanager
def reading(path: Path) -> Iterator[sqlite3.Connection]:
    """Open a database as `open_to_read` does, for queries that Ctrl-C ends; raise StoreError if it was modified."""
    with contextlib.closing(open_to_read(path)) as connection, bounded(connection, path):
        check_schema(connection, path)
        yield connection


def explain(path: Path, error: sqlite3.Error) -> str:
    """Return why a database cannot be read, with the fix if the disk is to blame."""
    if is_transient(error):
        disk = os.statvfs(path.parent)
        if disk.f_flag & os.ST_RDONLY:
            return f"{error}; the disk is mounted read-only: mount it writable"
        if code_of(error) == sqlite3.SQLITE_FULL or disk.f_bavail * disk.f_frsize < _LEAST_FREE:
            return f"{error}; the disk is full: free some space"
    return str(error)


def _is_at_rest(path: Path) -> bool:
    """Return whether nobody writes the database, and neither its log nor its journal holds later changes."""
    parts = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal"))
    try:
        return running_daemon(path.parent) is None and not any(part.exists() and part.stat().st_size for part in parts)
    except (OSError, StoreError):
        return False
