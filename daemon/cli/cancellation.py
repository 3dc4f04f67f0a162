"""Cancel runs: through the daemon, or by a flag in the database that the next daemon obeys."""

import contextlib
import os
import sqlite3
from collections.abc import Iterator
from typing import Any

from daemon.cli.client import Client
from daemon.cli.offline import check_schema_is_current, has_database, may_use
from daemon.cli.privileges import asker, give_up_root
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError, ForbiddenError, NotFoundError, RefusedError, StoreError
from daemon.model import ACTIVE, DATABASE
from daemon.store.bounded import bounded
from daemon.store.cancellations import flag_cancellation
from daemon.store.connection import Transaction, connect
from daemon.store.lock import check_owner, running_daemon
from daemon.store.runs import Run, get_run
from daemon.store.unfinished_runs import active_runs
from daemon.units import utc_now
from daemon.views.runs import run_view


def request_cancellation(config: Config, number: int) -> tuple[dict[str, Any], bool]:
    """Cancel a run; return it, and whether a running daemon does it now."""
    try:
        return Client(config).ask("POST", f"/runs/{number}/cancel"), True
    except DaemonUnreachableError:
        if _needs_daemon(config):
            raise
    if not has_database(config):
        raise NotFoundError(f"there is no database in {state_dir(config)} yet, so there is no run {number}")
    principal = asker()
    with _write_transaction(config) as tx:
        return dict(run_view(_flag(tx, number, principal))), False


def cancel_all(config: Config, agent: str | None = None, schedule: str | None = None) -> tuple[list[int], bool]:
    """Cancel the active runs that we may cancel, of one agent, one schedule (`AGENT/NAME`) or all.

    Return their numbers, and whether a running daemon does it now.
    """
    try:
        return _cancel_through_daemon(Client(config), agent, schedule), True
    except DaemonUnreachableError:
        if _needs_daemon(config):
            raise
    if not has_database(config):
        raise NotFoundError(f"nothing to cancel: no daemon runs on {state_dir(config)}, and it has no database yet")
    principal = asker()
    with _write_transaction(config) as tx:
        return [_flag(tx, number, principal).id for number in active_runs(tx, agent, schedule)], False


def _cancel_through_daemon(client: Client, agent: str | None, schedule: str | None) -> list[int]:
    cancelled = []
    for status in sorted(ACTIVE):
        cursor: str | None = None
        while True:
            page = client.get("/runs", agent=agent, schedule=schedule, status=status, limit=1000, cursor=cursor)
            for run in page["runs"]:
                with contextlib.suppress(
                    RefusedError, NotFoundError, ForbiddenError
                ):  # it has ended, or is another user's
                    client.ask("POST", f"/runs/{run['id']}/cancel")
                    cancelled.append(run["id"])
            cursor = page["next_cursor"]
            if cursor is None:
                break
    return sorted(cancelled)


def _needs_daemon(config: Config) -> bool:
    """Tell whether only a daemon can cancel: one runs although it is unreachable, or we may not write its state."""
    return not may_use(config, os.W_OK | os.X_OK) or running_daemon(state_dir(config)) is not None


@contextlib.contextmanager
def _write_transaction(config: Config) -> Iterator[Transaction]:
    """Open a write transaction on the database; raise StoreError if it cannot be written, RefusedError if not ours."""
    path = state_dir(config) / DATABASE
    give_up_root(path.parent)
    check_owner(path.parent)
    try:
        with contextlib.closing(connect(path)) as connection, bounded(connection, path):
            check_schema_is_current(connection, path)
            connection.execute("BEGIN IMMEDIATE")
            yield Transaction(connection)
            connection.execute("COMMIT")
    except sqlite3.Error as error:
        raise StoreError(f"cannot write {path}: {error}") from None


def _flag(tx: Transaction, number: int, principal: str) -> Run:
    run = get_run(tx, number)
    if run is None:
        raise NotFoundError(f"no run {number}; `agentcron runs list` shows the runs")
    if run.status not in ACTIVE:
        raise RefusedError(f"run {number} has already ended ({run.status})")
    flag_cancellation(tx, number, utc_now(), principal)
    return run
