"""Read the database without a daemon: read-only, and only where the file permissions allow it."""

import contextlib
import getpass
import os
import sqlite3
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from daemon.cli.privileges import give_up_root
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import InvalidError, NotFoundError, StoreError
from daemon.model import DATABASE, NAME
from daemon.store.bounded import bounded
from daemon.store.migrate import migrations
from daemon.store.read_only import explain, open_to_read
from daemon.store.rows import UNREADABLE
from daemon.store.runs import Run, get_run
from daemon.store.schedules import ScheduleRow, deleted_schedule, get_schedule, get_schedule_by_id
from daemon.store.schema import check_schema, schema_version


def has_database(config: Config) -> bool:
    """Tell whether the state directory has a database; raise StoreError if we may not see that."""
    path = state_dir(config) / DATABASE
    try:
        path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except PermissionError:
        raise StoreError(f"{getpass.getuser()} has no permission to read {path.parent}; ask an administrator") from None
    except OSError as error:
        raise StoreError(f"the state directory {path.parent} cannot be used: {error.strerror}") from None
    return True


def may_read(config: Config) -> bool:
    """Tell whether we can read the database without the daemon, or there is none yet."""
    return may_use(config, os.R_OK | os.X_OK)


def may_use(config: Config, rights: int) -> bool:
    """Tell whether we have rights (as in access(2)) to the state directory, or there is none yet."""
    folder = state_dir(config)
    try:
        folder.stat()
    except FileNotFoundError:
        return True
    except OSError:  # no permission for a directory above it
        return False
    return os.access(folder, rights)


def document(
    config: Config, from_database: Callable[[sqlite3.Connection], Mapping[str, Any]], path: str
) -> dict[str, Any]:
    """Return a JSON document: from the database if we may read it, else from the daemon, which checks our rights."""
    found = _from_database(config, from_database)
    if found is not None:
        return found
    from daemon.cli.client import Client

    return Client(config).get(path)


def listing(
    config: Config,
    from_database: Callable[[sqlite3.Connection], Mapping[str, Any]],
    path: str,
    key: str,
    limit: int | None = None,
    **query: object,
) -> dict[str, Any]:
    """Return a list as `document` does, from the daemon page by page; its entries are under `key`."""
    found = _from_database(config, from_database)
    if found is not None:
        return found
    from daemon.cli.client import Client

    return Client(config).pages(path, key, limit, **query)


def _from_database(config: Config, query: Callable[[sqlite3.Connection], Mapping[str, Any]]) -> dict[str, Any] | None:
    """Return a document from the database, None if only the daemon can answer."""
    if not config.agents or not may_read(config):  # a config without agents has errors: only the daemon knows the rest
        return None
    with reading(config) as connection:
        return dict(query(connection))


@contextlib.contextmanager
def reading(config: Config) -> Iterator[sqlite3.Connection]:
    """Open the database read-only, as nobody but the user we act as; raise NotFoundError if there is none yet.

    Whatever fails in the block because of what the database holds is a StoreError.
    """
    path = state_dir(config) / DATABASE
    give_up_root(path.parent)
    if not has_database(config):
        raise NotFoundError(f"no database in {path.parent} yet; start the daemon with `agentcron run`")
    try:
        with contextlib.closing(open_to_read(path)) as connection, bounded(connection, path):
            check_schema_is_current(connection, path, only_reads=True)
            yield connection
    except sqlite3.Error as error:
        raise StoreError(f"cannot read {path}: {explain(path, error)}") from None
    except UNREADABLE as error:
        what = f"{type(error).__name__}: {error}"
        raise StoreError(
            f"{path} holds a value that agentcron did not write ({what}); run `agentcron doctor`, or restore a backup"
        ) from None


def check_schema_is_current(connection: sqlite3.Connection, path: Path, *, only_reads: bool = False) -> None:
    """Raise StoreError for a database that this version cannot read or write, or that others have modified."""
    version, known = schema_version(connection, path), max(migrations())
    if version != known:
        fix = "start the daemon once to migrate it"
        raise StoreError(f"{path} has schema {version}, but this command needs schema {known}; {fix}")
    check_schema(connection, path, only_reads=only_reads)


def split_address(address: str) -> tuple[str, str]:
    """Return agent and name of `AGENT/NAME`; raise InvalidError for any other form."""
    agent, slash, name = address.partition("/")
    if not slash or not NAME.fullmatch(agent) or not NAME.fullmatch(name):
        raise InvalidError(
            f"{address!r} is not a schedule; write AGENT/NAME, with lower-case letters, digits and hyphens in each"
        )
    return agent, name


def split_past_address(address: str) -> tuple[str, str, int | None]:
    """Return agent, name and number of `AGENT/NAME` or `AGENT/NAME@ID`; raise InvalidError for any other form."""
    live, at, number = address.partition("@")
    agent, name = split_address(live)
    if at and not (number.isascii() and number.isdigit() and len(number) < 19):  # noqa: PLR2004 - fits into 63 bits
        raise InvalidError(f"{address!r} is not a schedule; `agentcron schedules list --deleted` shows AGENT/NAME@ID")
    return agent, name, int(number) if at else None


def schedule_named(connection: sqlite3.Connection, address: str, *, deleted: bool = False) -> ScheduleRow:
    """Return the live schedule of an address; raise NotFoundError.

    With `deleted`, it may be the one deleted last, or the one with the number in `AGENT/NAME@ID`.
    """
    agent, name, number = split_past_address(address) if deleted else (*split_address(address), None)
    row = get_schedule(connection, agent, name) if number is None else get_schedule_by_id(connection, number)
    if row is None and deleted and number is None:
        row = deleted_schedule(connection, agent, name)
    if row is not None and (row.agent, row.name) != (agent, name):
        row = None
    if row is None:
        raise no_schedule(address)
    return row


def no_schedule(address: str) -> NotFoundError:
    """Return the error for an address that no schedule has."""
    return NotFoundError(f"no schedule {address}; `agentcron schedules list` shows the schedules")


def run_numbered(connection: sqlite3.Connection, number: int) -> Run:
    """Return the run with a number; raise NotFoundError if there is none."""
    run = get_run(connection, number)
    if run is None:
        raise NotFoundError(f"no run {number}; `agentcron runs list` shows the runs")
    return run
