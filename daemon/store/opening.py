"""Open a state directory for a daemon: lock it, create or migrate the database, and confront it with its witness."""

import fcntl
import os
import sqlite3
import struct
from datetime import datetime
from pathlib import Path

from daemon.errors import RefusedError, StoreError
from daemon.store.database import Database, connect
from daemon.store.migrate import migrate, migrations
from daemon.store.witness import NAME, WitnessFile, confront

DATABASE = "state.db"
LOCK = "daemon.lock"
_FLOCK = "hhqqi4x"  # struct flock of fcntl(2) on 64-bit Linux


class DaemonLock:
    """The lock of the one daemon of a state directory: a POSIX record lock, which the kernel drops with its holder.

    Nothing else in the process may open the file: closing any descriptor of it would drop the lock.
    """

    def __init__(self, state_dir: Path) -> None:
        try:
            state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
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


def running_daemon(state_dir: Path) -> int | None:
    """Return the pid of the daemon that holds the state directory, None if there is none. Takes no lock."""
    try:
        descriptor = os.open(state_dir / LOCK, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        return _holder(descriptor)
    finally:
        os.close(descriptor)


def _holder(descriptor: int) -> int | None:
    question = struct.pack(_FLOCK, fcntl.F_RDLCK, os.SEEK_SET, 0, 0, 0)
    kind, _, _, _, pid = struct.unpack(_FLOCK, fcntl.fcntl(descriptor, fcntl.F_GETLK, question))
    return pid if kind != fcntl.F_UNLCK else None


def open_state(state_dir: Path, now: datetime, *, accept_data_loss: bool) -> Database:
    """Prepare the database of a locked state directory and return it, not yet entered.

    Raise StoreError if it is damaged, newer than this version, or not the one its witness knows.
    """
    path = state_dir / DATABASE
    try:
        for folder in ("runs", "environments"):
            (state_dir / folder).mkdir(mode=0o700, exist_ok=True)
        if not path.exists():
            _create(path, state_dir, accept_data_loss=accept_data_loss)
        connection = connect(path)
        try:
            _prepare(connection, path)
            witness = confront(connection, state_dir, now, accept_data_loss=accept_data_loss)
        finally:
            connection.close()
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be used: {error}; restore it from a backup") from None
    except OSError as error:
        raise StoreError(f"{state_dir} cannot be used: {error.strerror}: {error.filename}") from None
    return Database(path, WitnessFile(state_dir, witness))


def _create(path: Path, state_dir: Path, *, accept_data_loss: bool) -> None:
    if (state_dir / NAME).exists() and not accept_data_loss:
        raise StoreError(
            f"{path} is gone, but its witness file is there; nothing was changed. Restore it with `agentcron restore "
            "FILE`, or, to go on without what is lost, start once with `agentcron run --accept-data-loss`"
        )
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
    connection = connect(path)
    try:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("VACUUM")  # writes the first page, which fixes auto_vacuum
    finally:
        connection.close()


def _prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Migrate; a database from a newer version is refused before anything touches it."""
    steps = migrations()
    newer = connection.execute("PRAGMA user_version").fetchone()[0] > max(steps)
    if not newer:
        connection.execute("PRAGMA journal_mode = WAL")
    migrate(connection, path, steps)
