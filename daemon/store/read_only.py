"""Reading the database of a state directory from outside of its daemon, also where nothing can be written."""

import os
import sqlite3
from pathlib import Path

from daemon.errors import StoreError
from daemon.store.connection import code_of, connect, is_of_the_moment
from daemon.store.lock import running_daemon

_OF_THE_DISK = {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY}
_LEAST_FREE = 64 * 1024  # bytes, which the index of the log takes


def open_to_look(path: Path) -> sqlite3.Connection:
    """Open a database that no daemon of this process holds, read-only, for one look; raise sqlite3.Error.

    SQLite needs to make a file or two beside it for that. Where the disk has no room for them, or takes nothing at all,
    it is read as it stands, if no daemon runs and all is in it (https://www.sqlite.org/uri.html, immutable).
    """
    connection = connect(path, read_only=True)
    try:
        connection.execute("PRAGMA schema_version").fetchone()
    except sqlite3.Error as error:
        connection.close()
        if code_of(error) in _OF_THE_DISK and _is_at_rest(path):
            return connect(path, read_only=True, at_rest=True)
        raise
    return connection


def why_not(path: Path, error: sqlite3.Error) -> str:
    """Return why a database cannot be read, and what helps where it is the disk."""
    if is_of_the_moment(error):
        disk = os.statvfs(path.parent)
        if disk.f_flag & os.ST_RDONLY:
            return f"{error}; its disk takes no writes: mount it writable"
        if code_of(error) == sqlite3.SQLITE_FULL or disk.f_bavail * disk.f_frsize < _LEAST_FREE:
            return f"{error}; its disk is full: make room on it"
    return str(error)


def _is_at_rest(path: Path) -> bool:
    """Tell whether nobody writes the database, and neither its log nor its journal holds anything that it lacks."""
    parts = (path.with_name(f"{path.name}{suffix}") for suffix in ("-wal", "-journal"))
    try:
        return running_daemon(path.parent) is None and not any(part.exists() and part.stat().st_size for part in parts)
    except (OSError, StoreError):
        return False
