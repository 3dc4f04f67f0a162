"""Back up the database: one consistent, verified SQLite file that also holds the key of hook tokens.

A backup is made while a daemon writes (sqlite.org/backup.html), in one read transaction, so that it holds the database
as of one instant.
"""

import contextlib
import errno
import os
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import BinaryIO

from daemon.errors import RefusedError, StoreError, StoreUnavailableError
from daemon.model import DATABASE, DATABASE_PARTS, HOOK_KEY
from daemon.regular_file import open_regular
from daemon.store.bounded import bounded
from daemon.store.connection import code_of, connect, is_transient
from daemon.store.lock import running_daemon
from daemon.store.private_file import new_file, read_private
from daemon.store.read_only import explain, open_to_read
from daemon.store.schema import BACKUP_TABLE, check_schema
from daemon.store.witness import find_loss, read_witness, witness_of
from daemon.units import format_instant
from daemon.version import VERSION

_BEGINNINGS = {"": (b"SQLite format 3\0",), "-wal": (b"\x37\x7f\x06\x82", b"\x37\x7f\x06\x83")}
"""How a database and its write-ahead log begin (sqlite.org/fileformat2.html)."""
_LONGEST_BEGINNING = 16
_AT_A_TIME = 2048  # pages between two reports of progress
_MOST_PROBLEMS = 5  # that an error names
_LARGEST_KEY = 4096  # bytes of the key of hook tokens, which has 32
_CHUNK = 4 * 1024**2  # bytes that are copied between two reports of progress
Progress = Callable[[int, int], None]
"""Called with the number of pages, or bytes, done and the total."""


@dataclass(frozen=True)
class Contents:
    """What a backup holds."""

    made_at: str | None
    """None for a copy of the database that `back_up` did not make."""
    runs: int
    fires: int
    schedules: int
    highest_run: int
    hook_key: bytes | None


@dataclass(frozen=True)
class _Partial:
    """A backup that is being written, in a file that this process has just created."""

    path: Path
    owner: int
    """Whom the file system says that it belongs to: on some mounts that is not who created it."""

    def connect(self, *, read_only: bool = False) -> sqlite3.Connection:
        return connect(self.path, read_only=read_only, owner=self.owner)


def _open(file: Path) -> sqlite3.Connection:
    return connect(file, read_only=True)


def back_up(state_dir: Path, target: Path, now: datetime, progress: Progress) -> Contents:
    """Write a complete, verified backup or leave the target unchanged; raise RefusedError, or as `examine` does.

    `target` is what `check_target` returned.
    """
    try:
        with _partial_file(target) as partial:
            contents = _fill(partial, state_dir, now, progress)
            partial.path.replace(target)
            _sync(target.parent)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from None
    return contents


def back_up_into(descriptor: int, state_dir: Path, target: Path, now: datetime, progress: Progress) -> Contents:
    """Write a complete, verified backup into an open file, since only others may reach where it is; raise likewise.

    `target` is what errors call that file. Meanwhile there is a second copy in the state directory.
    """
    try:
        with _partial_file(state_dir / "backup") as partial:
            contents = _fill(partial, state_dir, now, progress)
            with partial.path.open("rb") as source, open(descriptor, "wb", closefd=False) as copy:
                shutil.copyfileobj(source, copy)
            os.fsync(descriptor)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from None
    return contents


def _fill(partial: _Partial, state_dir: Path, now: datetime, progress: Progress) -> Contents:
    """Make an empty file a backup; return what it holds."""
    source = state_dir / DATABASE
    try:
        _copy_database(source, partial, progress)
        _complete(partial, _read_key(state_dir), now)
        contents = examine(partial.path, source, lambda _: partial.connect(read_only=True))
        _check_witness(state_dir, partial)
    except sqlite3.Error as error:
        if code_of(error) == sqlite3.SQLITE_FULL:
            raise StoreError(f"cannot write {partial.path.parent}: the disk is full") from None
        raise StoreError(f"{source} cannot be backed up: {explain(source, error)}") from None
    _sync(partial.path)
    return contents


def check_target(state_dir: Path, target: Path) -> Path:
    """Return the file that a backup will be, links followed; raise RefusedError if it must not be replaced."""
    try:
        target = target.resolve()
        _check_target(state_dir, target)
    except OSError as error:
        raise StoreError(f"cannot write {target}: {error.strerror}") from None
    return target


def _check_target(state_dir: Path, target: Path) -> None:
    if target.is_relative_to(state_dir.resolve()):
        raise RefusedError(f"{target} is in the state directory and would be lost with it; name another place")
    if target.is_dir():
        raise RefusedError(f"{target} is a folder; name a file in it")
    if target.exists() and not _is_backup(target):
        raise RefusedError(f"{target} exists and is not a backup of agentcron; name another file")


def _check_witness(state_dir: Path, partial: _Partial) -> None:
    """Raise StoreError if no daemon would start on the database; skip this while one runs, as the witness is ahead."""
    if running_daemon(state_dir) is not None:
        return
    with contextlib.closing(partial.connect(read_only=True)) as connection:
        loss = find_loss(read_witness(state_dir), witness_of(connection))
    if loss is not None:
        raise StoreError(f"{state_dir / DATABASE} {loss}; the earlier backup is better")


def examine(file: Path, name: Path | None = None, look: Callable[[Path], sqlite3.Connection] = _open) -> Contents:
    """Verify every page of a database file and return what it holds; raise StoreError if it is unusable.

    `name` is what errors call the file, if it is a copy; `look` opens it. Raise StoreUnavailableError if a lock or the
    disk prevents reading it at the moment.
    """
    name = name or file
    try:
        with contextlib.closing(look(file)) as connection, bounded(connection, file, name):
            check_schema(connection, name)
            found = connection.execute(f"PRAGMA integrity_check({_MOST_PROBLEMS})").fetchall()
            problems = [line for row in found for line in str(row[0]).splitlines() if line != "ok"]
            if problems:
                raise StoreError(f"{name} is damaged: {'; '.join(problems)}")
            return _contents(connection)
    except sqlite3.Error as error:
        kind = StoreUnavailableError if is_transient(error) else StoreError
        raise kind(f"{name} cannot be read: {explain(file, error)}") from None


def _contents(connection: sqlite3.Connection) -> Contents:
    has_key = connection.execute("SELECT 1 FROM sqlite_schema WHERE name = 'backup'").fetchone() is not None
    row = connection.execute("SELECT made_at, hook_key FROM backup").fetchone() if has_key else None
    counts = connection.execute(
        "SELECT (SELECT count(*) FROM runs) AS runs, (SELECT count(*) FROM fires) AS fires, "
        "(SELECT count(*) FROM schedules WHERE deleted_at IS NULL) AS schedules"
    ).fetchone()
    known = witness_of(connection)
    return Contents(
        made_at=row["made_at"] if row else None,
        runs=counts["runs"],
        fires=counts["fires"],
        schedules=counts["schedules"],
        highest_run=known.highest_run if known else 0,
        hook_key=row["hook_key"] if row else None,
    )


def _is_backup(target: Path) -> bool:
    """Return whether a file may be replaced: it is empty, or a backup of agentcron, valid or not."""
    if not target.is_file() or any(_has_content(target, suffix) for suffix in ("-wal", "-journal")):
        return False
    uri = f"{target.as_uri()}?mode=ro&immutable=1"  # so that SQLite touches nothing beside it
    try:
        with contextlib.closing(sqlite3.connect(uri, uri=True)) as connection:
            tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_schema")}
    except sqlite3.Error:
        return False
    return not tables or "backup" in tables


def _has_content(target: Path, suffix: str) -> bool:
    try:
        return target.with_name(target.name + suffix).lstat().st_size > 0
    except FileNotFoundError:
        return False


class BackupFile:
    """An open backup, with the write-ahead log that a plain copy of a database may have beside it."""

    def __init__(self, path: Path, place: Path | None = None) -> None:
        """Open it with the rights that this process has now; raise StoreError if that fails.

        `place` is where it is opened, in an open directory, if others could change what its path leads to.
        """
        self.path = path
        place = place or path
        flags = os.O_NOFOLLOW if place != path else 0
        try:
            self._parts: dict[str, BinaryIO] = {"": open(open_regular(place, flags), "rb")}  # noqa: PTH123, SIM115 - a descriptor, for `copy_to`
            with contextlib.suppress(FileNotFoundError):
                self._parts["-wal"] = self._open_log(place.with_name(f"{place.name}-wal"))
        except OSError as error:
            log = "-wal" if "" in getattr(self, "_parts", {}) else ""
            raise StoreError(
                f"{path}{log} cannot be read: {error.strerror}; name a file that `agentcron backup` wrote"
            ) from None
        for part, starts in _BEGINNINGS.items():  # what is not a database is not copied to where an agent may read it
            start = os.pread(self._parts[part].fileno(), _LONGEST_BEGINNING, 0) if part in self._parts else b""
            if start and not start.startswith(starts):
                raise StoreError(f"{path}{part} is not a database; name a file that `agentcron backup` wrote")

    def _open_log(self, path: Path) -> BinaryIO:
        """Open the write-ahead log; raise OSError for a link, and for a file that is not of the backup's owner."""
        log = open(open_regular(path, os.O_NOFOLLOW), "rb")  # noqa: PTH123, SIM115 - a descriptor, for `copy_to`
        if os.fstat(log.fileno()).st_uid != os.fstat(self._parts[""].fileno()).st_uid:
            raise OSError(errno.EPERM, "belongs to another user than the backup", str(path))
        return log

    def copy_to(self, target: Path, progress: Progress) -> None:
        """Copy it to a path that does not exist, with its progress in bytes; raise OSError."""
        total, done = sum(os.fstat(part.fileno()).st_size for part in self._parts.values()), 0
        for suffix, source in self._parts.items():
            with source, new_file(target.with_name(target.name + suffix)) as copy:
                while content := source.read(_CHUNK):
                    copy.write(content)
                    done += len(content)
                    progress(done, total)
                copy.flush()
                os.fsync(copy.fileno())


def _copy_database(source: Path, target: _Partial, progress: Progress) -> None:
    with (
        contextlib.closing(open_to_read(source)) as reading,
        bounded(reading, source),
        contextlib.closing(target.connect()) as writing,
    ):
        reading.execute("BEGIN")
        check_schema(reading, source)  # the first read fixes the instant that the transaction sees
        reading.backup(
            writing, pages=_AT_A_TIME, progress=lambda _, left, total: progress(total - left, total), sleep=0
        )


def _complete(partial: _Partial, hook_key: bytes | None, now: datetime) -> None:
    """Turn the copy into a single file, and record in it when and by which version it was made."""
    with contextlib.closing(partial.connect()) as connection:
        connection.execute("PRAGMA journal_mode = DELETE")
        connection.execute(BACKUP_TABLE)
        connection.execute(
            "INSERT INTO backup VALUES (?, ?, ?)", (format_instant(now), f"agentcron {VERSION}", hook_key)
        )


def _read_key(state_dir: Path) -> bytes | None:
    try:
        return read_private(state_dir / HOOK_KEY, _LARGEST_KEY)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise StoreError(f"{state_dir / HOOK_KEY} cannot be read: {error.strerror}; move it away") from None


@contextlib.contextmanager
def _partial_file(target: Path) -> Iterator[_Partial]:
    """Yield a private temporary file beside the target, and remove it afterwards."""
    descriptor, name = tempfile.mkstemp(prefix=f".{target.name[:200]}.", suffix=".partial", dir=target.parent)
    try:
        owner = os.fstat(descriptor).st_uid
    finally:
        os.close(descriptor)
    path = Path(name)
    try:
        yield _Partial(path, owner)
    finally:
        for suffix in DATABASE_PARTS:
            path.with_name(path.name + suffix).unlink(missing_ok=True)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
