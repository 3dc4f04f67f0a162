"""Cancellations: asked of the daemon, or left in the database for the next one."""

import contextlib
import getpass
import os
import sqlite3
from typing import Any

from daemon.cli.client import Client
from daemon.config.places import state_dir
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError, ForbiddenError, NotFoundError, RefusedError, StoreError
from daemon.model import ACTIVE
from daemon.store.database import Transaction, connect
from daemon.store.opening import DATABASE, running_daemon
from daemon.store.runs import Run, flag_cancellation, get_run
from daemon.units import utc_now
from daemon.views import run_view


def request_cancellation(config: Config, number: int) -> tuple[dict[str, Any], bool]:
    """Have a run cancelled; return it, and whether a daemon was there to obey."""
    try:
        return Client(config).ask("POST", f"/runs/{number}/cancel"), True
    except DaemonUnreachableError:
        folder = state_dir(config)
        if folder.exists() and (not os.access(folder, os.W_OK | os.X_OK) or running_daemon(folder) is not None):
            raise
    if not (folder / DATABASE).exists():
        raise NotFoundError(f"there is no database in {folder} yet, so there is no run {number}")
    try:
        with contextlib.closing(connect(folder / DATABASE)) as connection:
            return run_view(_flag(connection, number)), False
    except sqlite3.Error as error:
        raise StoreError(f"{folder / DATABASE} cannot be written: {error}") from None


def cancel_all(config: Config) -> list[int]:
    """Have all active runs cancelled that we may cancel; return their numbers."""
    client, cancelled = Client(config), []
    for status in sorted(ACTIVE):
        cursor: str | None = None
        while True:
            page = client.get("/runs", status=status, limit=1000, cursor=cursor)
            for run in page["runs"]:
                with contextlib.suppress(RefusedError, NotFoundError, ForbiddenError):  # it ended, or is not ours
                    client.ask("POST", f"/runs/{run['id']}/cancel")
                    cancelled.append(run["id"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
    return sorted(cancelled)


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
