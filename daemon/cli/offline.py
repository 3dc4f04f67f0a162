"""Read the database without a daemon: read-only, and only where the file permissions allow it."""

import contextlib
import getpass
import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import InvalidError, NotFoundError, StoreError
from daemon.model import DATABASE, NAME, OWN_TABLES
from daemon.store.migrate import migrations
from daemon.store.read_only import explain, open_to_read
from daemon.store.runs import Run, get_run
from daemon.store.schedules import ScheduleRow, deleted_schedule, get_schedule


def has_database(config: Config) -> bool:
    """Tell whether a daemon has run on the state directory; raise StoreError if that cannot be seen."""
    path = state_dir(config) / DATABASE
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise StoreError(f"{path.parent} is closed to {getpass.getuser()}; ask an administrator") from None
    return True


def may_read(config: Config) -> bool:
    """Tell whether the database need not be asked for through the daemon: it is open to us, or there is none."""
    return may_use(config, os.R_OK | os.X_OK)


def may_use(config: Config, rights: int) -> bool:
    """Tell whether we have rights to the state directory (as access(2) takes them), or there is none yet."""
    folder = state_dir(config)
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:  # a folder above it is closed to us
        return False
    return os.access(folder, rights)


def document(
    config: Config, from_database: Callable[[sqlite3.Connection], dict[str, Any]], path: str, **query: object
) -> dict[str, Any]:
    """Return a document: from the database where we may read it, else from the daemon, which knows our rights."""
    if config.agents and may_read(config):  # without agents it is of a daemon that we found, which knows the rest
        with reading(config) as connection:
            return from_database(connection)
    from daemon.cli.client import Client

    return Client(config).get(path, **query)


@contextlib.contextmanager
def reading(config: Config) -> Iterator[sqlite3.Connection]:
    """Open the database read-only; raise NotFoundError if there is none yet."""
    path = state_dir(config) / DATABASE
    if not has_database(config):
        raise NotFoundError(f"there is no database in {path.parent} yet; start the daemon with `agentcron run`")
    try:
        connection = open_to_read(path)
        with contextlib.closing(connection):
            check_schema(connection, path)
            yield connection
    except sqlite3.Error as error:
        raise StoreError(f"{path} cannot be read: {explain(path, error)}") from None


def check_schema(connection: sqlite3.Connection, path: Path) -> None:
    """Raise StoreError for a database that this version cannot read or write."""
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    tables = {row["name"] for row in connection.execute("SELECT name FROM sqlite_schema WHERE type = 'table'")}
    if not tables >= OWN_TABLES:
        raise StoreError(f"{path} is not a database of agentcron, or was emptied; `agentcron doctor` says more")
    known = max(migrations())
    if version != known:
        mend = "start the daemon once, which brings it up" if version < known else "use the version that wrote it"
        raise StoreError(f"{path} has schema {version}, this command knows {known}; {mend}")


def split_address(address: str) -> tuple[str, str]:
    """Return agent and name of `AGENT/NAME`; raise InvalidError if it is not of that form."""
    agent, slash, name = address.partition("/")
    if not slash or not NAME.fullmatch(agent) or not NAME.fullmatch(name):
        raise InvalidError(
            f"{address!r} names no schedule; write AGENT/NAME, each of lower-case letters, digits and hyphens"
        )
    return agent, name


def schedule_named(connection: sqlite3.Connection, address: str, *, deleted: bool = False) -> ScheduleRow:
    """Return the live schedule of an address, or the one deleted last; raise NotFoundError if there is none."""
    row = get_schedule(connection, *split_address(address))
    if row is None and deleted:
        row = deleted_schedule(connection, *split_address(address))
    if row is None:
        raise NotFoundError(f"no schedule {address}; `agentcron schedules list` shows those there are")
    return row


def run_numbered(connection: sqlite3.Connection, number: int) -> Run:
    """Return the run of a number; raise NotFoundError if there is none."""
    run = get_run(connection, number)
    if run is None:
        raise NotFoundError(f"no run {number}; `agentcron runs list` shows those there are")
    return run
