"""What commands ask of the daemon."""

import contextlib
import getpass
import os
import signal
import sqlite3

from daemon.config.places import state_dir
from daemon.config.schema import Config
from daemon.errors import NotFoundError, RefusedError, StoreError
from daemon.model import ACTIVE
from daemon.store.database import Transaction, connect
from daemon.store.opening import DATABASE, running_daemon
from daemon.store.runs import Run, flag_cancellation, get_run
from daemon.units import utc_now


def request_cancellation(config: Config, number: int) -> tuple[Run, bool]:
    """Set a run's cancellation flag and wake the daemon; return the run, and whether a daemon is there to obey."""
    folder = state_dir(config)
    if not (folder / DATABASE).exists():
        raise NotFoundError(f"there is no database in {folder} yet, so there is no run {number}")
    try:
        with contextlib.closing(connect(folder / DATABASE)) as connection:
            run = _flag(connection, number)
    except sqlite3.Error as error:
        raise StoreError(f"{folder / DATABASE} cannot be written: {error}") from None
    daemon = running_daemon(folder)
    if daemon is not None:
        try:
            os.kill(daemon, signal.SIGUSR1)
        except ProcessLookupError:  # it ended just now
            daemon = None
        except PermissionError:
            raise RefusedError(f"run {number} is flagged, but pid {daemon} is another user's daemon") from None
    return run, daemon is not None


def _flag(connection: sqlite3.Connection, number: int) -> Run:
    connection.execute("BEGIN IMMEDIATE")
    tx = Transaction(connection)
    run = get_run(tx, number)
    if run is None:
        raise NotFoundError(f"no run {number}; `agentcron runs list` shows those there are")
    if run.status not in ACTIVE:
        raise RefusedError(f"run {number} is {run.status} already")
    flag_cancellation(tx, number, utc_now(), getpass.getuser())
    connection.execute("COMMIT")
    return run
