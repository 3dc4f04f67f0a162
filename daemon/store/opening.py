"""Open a state directory for a daemon: lock it, create or migrate the database, and confront it with its witness."""

import contextlib
import fcntl
import os
import sqlite3
import struct
from datetime import datetime
from pathlib import Path

from daemon.errors import RefusedError, StoreError
from daemon.model import DATABASE
from daemon.store.ballast import LEAST_FREE, Ballast
from daemon.store.database import Database, connect
from daemon.store.migrate import migrate, migrations, newer_schema
from daemon.store.witness import NAME as WITNESS
from daemon.store.witness import Witness, WitnessFile, agree, find_loss, read_witness, testify

LOCK = "daemon.lock"
_NOBODY_HERE = 2**22 + 1  # no pid is that high (proc(5), pid_max): the holder lives in another pid namespace
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2) on 64-bit Linux


class DaemonLock:
    """The lock of the one daemon of a state directory: a POSIX record lock, which the kernel drops with its holder.

    Nothing else in the process may open the file: closing any descriptor of it would drop the lock.
    """

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            _close_to_others(state_dir)
            self._descriptor = os.open(state_dir / LOCK, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StoreError(f"the state directory {state_dir} cannot be used: {error.strerror}") from None
        try:
            fcntl.lockf(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            holder = _holder(self._descriptor)
            os.close(self._descriptor)
            raise RefusedError(
                f"a daemon (pid {holder or 'unknown'}) is running on {state_dir}; "
                "stop it first, or give this one a state_dir of its own"
            ) from None
        os.ftruncate(self._descriptor, 0)
        os.pwrite(self._descriptor, f"{os.getpid()}\n".encode(), 0)

    def release(self) -> None:
        """Let another daemon have the state directory."""
        os.close(self._descriptor)


def _close_to_others(state_dir: Path) -> None:
    """Give a state directory mode 0700; a folder that holds other things and no state of ours is left as it is."""
    names = {entry.name for entry in state_dir.iterdir()}
    if state_dir.stat().st_mode & 0o077 and (not names or names & {LOCK, DATABASE}):
        state_dir.chmod(0o700)


def running_daemon(state_dir: Path) -> int | None:
    """Return the pid of the daemon that holds the state directory, None if there is none. Takes no lock."""
    try:
        descriptor = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise StoreError(f"{state_dir / LOCK} cannot be read: {error.strerror}") from None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    if kind == fcntl.F_UNLCK:
        return None
    return pid or _NOBODY_HERE


def open_state(state_dir: Path, now: datetime, *, accept_data_loss: bool) -> Database:
    """Prepare the database of a locked state directory and return it, not yet entered.

    Raise StoreError if it is damaged, somebody else's, newer than this version, or not the one its witness knows;
    it is untouched then.
    """
    ballast = None
    try:
        for folder in ("runs", "environments"):
            (state_dir / folder).mkdir(mode=0o700, exist_ok=True)
        ballast = Ballast(state_dir)
        lost = _open(state_dir, now, accept_data_loss=accept_data_loss)
    except sqlite3.OperationalError as error:
        if ballast is None or not ballast.release():
            raise _unusable(state_dir / DATABASE, error) from None
        try:  # a full disk may have been all that was wrong
            lost = _open(state_dir, now, accept_data_loss=accept_data_loss)
        except sqlite3.Error as again:
            raise _unusable(state_dir / DATABASE, again) from None
    except sqlite3.Error as error:
        raise _unusable(state_dir / DATABASE, error) from None
    except OSError as error:
        raise StoreError(f"{state_dir} cannot be used: {error.strerror}: {error.filename}") from None
    for private in (DATABASE, f"{DATABASE}-wal", f"{DATABASE}-shm", WITNESS):
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
            f"{path} {loss}; nothing was changed. Put a backup back with `agentcron restore`, or, to go on without "
            "what is lost, start once with `agentcron run --accept-data-loss`"
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


def _unusable(path: Path, error: sqlite3.Error) -> StoreError:
    damaged = isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError)
    disk = os.statvfs(path.parent)
    if damaged:
        mend = "; stop the daemon and put a backup back with `agentcron restore`"
    elif disk.f_bavail * disk.f_frsize < LEAST_FREE:
        mend = "; the disk is full: make room on it"
    else:
        mend = ""
    return StoreError(f"{path} cannot be used: {error}{mend}")


def _inspect(path: Path) -> Witness | None:
    """Return what an existing database says of itself without changing it; None if it is missing or empty."""
    if not path.exists() or path.stat().st_size == 0:
        return None
    connection = connect(path, read_only=True)
    try:
        version: int = connection.execute("PRAGMA user_version").fetchone()[0]
        if version > max(migrations()):
            raise StoreError(newer_schema(path, version))
        tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
        if tables and not {"instance", "schedules", "fires", "runs"} <= tables:
            raise StoreError(f"{path} is not a database of agentcron; nothing was changed. Move it away")
        return testify(connection) if tables else None
    finally:
        connection.close()


def _create(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")  # writes the first page, which fixes auto_vacuum
    finally:
        connection.close()
