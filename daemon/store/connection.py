"""Connections to the database: their settings, transactions, and the meaning of SQLite's errors."""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from daemon.disk_room import lacks_room
from daemon.errors import DiskFullError, StoreDamagedError, StoreError, StoreUnavailableError
from daemon.model import DATABASE_PARTS
from daemon.store.changes import Changes
from daemon.store.private_file import check_private

_LARGEST_LOG = 16 * 1024 * 1024  # bytes that the write-ahead log keeps after a long read made it grow
_BUSY_TIMEOUT = 2.0  # seconds
_TRANSIENT = {  # primary result codes (sqlite.org/rescode.html) that do not blame the statement
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_NOMEM,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_PROTOCOL,
}
_DAMAGE = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_FROM_THE_DISK = {sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}


class Transaction:
    """What closures get: statements inside the open transaction, and a record of what it changes."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection
        self.changes = Changes()
        """What is published once it is committed."""

    @contextlib.contextmanager
    def savepoint(self) -> Iterator[None]:
        """Undo what the block did if it raises."""
        changes = self.changes.copy()
        self._connection.execute("SAVEPOINT part")
        try:
            yield
        except Exception as error:
            self.changes = changes
            # after an error of the disk, SQLite may have rolled back everything
            if concerns_others(error) or not self._connection.in_transaction:
                raise
            self._connection.execute("ROLLBACK TO part")
            self._connection.execute("RELEASE part")
            raise
        self._connection.execute("RELEASE part")

    def execute(self, sql: str, parameters: Iterable[Any] = ()) -> sqlite3.Cursor:
        """Run one statement."""
        return self._connection.execute(sql, tuple(parameters))

    def executemany(self, sql: str, rows: Iterable[Iterable[Any]]) -> sqlite3.Cursor:
        """Run one statement for each row of parameters."""
        return self._connection.executemany(sql, (tuple(row) for row in rows))


_EXECUTE = sqlite3.Connection.execute  # `super()` would cost as much as a short statement


class _Connection(sqlite3.Connection):
    """A connection on which any damage is an sqlite3.Error, and a used-up quota is a full disk.

    Messages about a damaged schema quote it, and Python raises UnicodeDecodeError for one that is not UTF-8. To SQLite,
    a quota is any error of the disk.
    """

    folder: Path
    """Where the database is."""

    def execute(self, sql: str, parameters: Any = (), /) -> sqlite3.Cursor:  # noqa: ANN401 - as the method it replaces
        try:
            return _EXECUTE(self, sql, parameters)
        except UnicodeDecodeError as error:
            raise _coded(f"malformed database schema: {error.object!r}", sqlite3.SQLITE_CORRUPT) from None
        except sqlite3.OperationalError as error:
            raise self._known(error) from None

    def executemany(self, sql: str, rows: Iterable[Any], /) -> sqlite3.Cursor:
        try:
            return super().executemany(sql, rows)
        except sqlite3.OperationalError as error:
            raise self._known(error) from None

    def executescript(self, script: str, /) -> sqlite3.Cursor:
        try:
            return super().executescript(script)
        except sqlite3.OperationalError as error:
            raise self._known(error) from None

    def _known(self, error: sqlite3.OperationalError) -> sqlite3.Error:
        if code_of(error) in _FROM_THE_DISK and lacks_room(self.folder):
            return _coded(f"{error}: no room is left, perhaps in the quota of this user", sqlite3.SQLITE_FULL)
        return error


def _coded(text: str, code: int) -> sqlite3.Error:
    kind = sqlite3.DatabaseError if code in _DAMAGE else sqlite3.OperationalError
    error = kind(text)
    error.sqlite_errorcode = code
    return error


def connect(
    path: Path, *, read_only: bool = False, at_rest: bool = False, owner: int | None = None
) -> sqlite3.Connection:
    """Open the database with agentcron's settings; raise sqlite3.Error if that fails.

    `at_rest` promises that nobody writes it meanwhile, so that SQLite creates no files beside it. Raise StoreError for
    one that SQLite must not open, since it or a file beside it is a link, a pipe or of another user than `owner`, by
    default that of this process.
    """
    try:
        for part in DATABASE_PARTS:
            check_private(path.with_name(path.name + part), owner)
    except OSError as error:
        raise StoreError(f"{error.filename} cannot be used: {error.strerror}; move it away") from None
    mode = "ro" if read_only else "rw"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}{'&immutable=1' if at_rest else ''}",
        uri=True,
        timeout=_BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        factory=_Connection,
    )
    connection.folder = path.parent
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA trusted_schema = OFF")  # nothing in a schema calls a function with an effect
    if not read_only:
        connection.execute("PRAGMA foreign_keys = ON")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA journal_size_limit = {_LARGEST_LOG}")
        connection.execute("PRAGMA secure_delete = FAST")  # do not overwrite pages that become free
    return connection


def is_transient(error: Exception) -> bool:
    """Return whether an error comes from the disk or a lock, so that the same statement may succeed later."""
    return code_of(error) in _TRANSIENT


def concerns_others(error: Exception) -> bool:
    """Return whether an error comes from the database as a whole, so that other work on it would fail, too.

    Any other error concerns only what was being done, such as a schedule with a damaged row.
    """
    if isinstance(error, StoreUnavailableError | StoreDamagedError):
        return True
    return isinstance(error, sqlite3.Error) and code_of(error) in _TRANSIENT | _DAMAGE


def translated(error: Exception) -> Exception:
    """Return the error to raise to callers: a StoreError for damage and transient errors, else the error itself."""
    code = code_of(error)
    if code in _DAMAGE:
        fix = "stop the daemon and restore a backup with `agentcron restore`; running agents continue meanwhile"
        return StoreDamagedError(f"the database is damaged ({error}); {fix}")
    if code not in _TRANSIENT:
        return error
    kind = DiskFullError if code == sqlite3.SQLITE_FULL else StoreUnavailableError
    return kind(f"the database cannot be written now: {error}")


def blameless(error: Exception) -> Exception:
    """Return the error to raise to callers for one that none of their statements caused, so that they may retry."""
    known = translated(error)
    if isinstance(known, StoreDamagedError | StoreUnavailableError):
        return known
    return StoreUnavailableError(f"the database cannot be written now: {type(error).__name__}: {error}")


def code_of(error: Exception) -> int:
    """Return the primary result code of an SQLite error."""
    code: int = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR)
    return code & 0xFF
