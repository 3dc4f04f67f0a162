"""Cancellations: asked of the daemon, or left in the database for the next one."""

import contextlib
import getpass
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from daemon.cli.client import Client
from daemon.cli.offline import check_schema, has_database, may_use
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError, ForbiddenError, NotFoundError, RefusedError, StoreError
from daemon.model import ACTIVE, DATABASE
from daemon.store.cancellations import flag_cancellation
from daemon.store.connection import Transaction, connect
from daemon.store.lock import running_daemon
from daemon.store.runs import Run, active_runs, get_run
from daemon.units import utc_now
from daemon.views.documents import run_view


def request_cancellation(config: Config, number: int) -> tuple[dict[str, Any], bool]:
    """Have a run cancelled; return it, and whether a daemon was there to obey."""
    try:
        return Client(config).ask("POST", f"/runs/{number}/cancel"), True
    except DaemonUnreachableError:
        if _must_ask(config):
            raise
    if not has_database(config):
        raise NotFoundError(f"there is no database in {state_dir(config)} yet, so there is no run {number}")
    with _writing(config) as tx:
        return run_view(_flag(tx, number)), False


def cancel_all(config: Config) -> tuple[list[int], bool]:
    """Have all active runs cancelled that we may cancel; return their numbers, and whether a daemon was there."""
    try:
        return _ask_for_all(Client(config)), True
    except DaemonUnreachableError:
        if _must_ask(config):
            raise
    if not has_database(config):
        raise NotFoundError(f"no daemon runs on {state_dir(config)}, and there is no database in it; nothing to cancel")
    with _writing(config) as tx:
        return [_flag(tx, number).id for number in active_runs(tx)], False


def _ask_for_all(client: Client) -> list[int]:
    cancelled = []
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


def _must_ask(config: Config) -> bool:
    """Tell whether only a daemon could do it: one runs all the same, or the state directory is not ours to write."""
    return not may_use(config, os.W_OK | os.X_OK) or running_daemon(state_dir(config)) is not None


@contextlib.contextmanager
def _writing(config: Config) -> Iterator[Transaction]:
    """Give a transaction of our own; raise StoreError if the database cannot be written."""
    path = state_dir(config) / DATABASE
    try:
        with contextlib.closing(connect(path)) as connection:
            check_schema(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            yield Transaction(connection)
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be written: {error}") from None


def _flag(tx: Transaction, number: int) -> Run:
    run = get_run(tx, number)
    if run is None:
        raise NotFoundError(f"no run {number}; `agentcron runs list` shows those there are")
    if run.status not in ACTIVE:
        raise RefusedError(f"run {number} is {run.status} already")
    flag_cancellation(tx, number, utc_now(), getpass.getuser())
    return run
