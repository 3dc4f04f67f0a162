"""Restores the database from a backup; what happened after the backup is unknown, so none of it is started again."""

import contextlib
import os
import sqlite3
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import chain, count
from pathlib import Path

from daemon.agents.process.launcher import living_supervisors
from daemon.agents.process.supervisor import status
from daemon.errors import RefusedError, StoreError
from daemon.model import DATABASE, DATABASE_PARTS
from daemon.notify.outbox import Outbox
from daemon.recovery.data_loss import start_from_copy
from daemon.runs.folder import run_folder, runs_with_folders
from daemon.runs.hook_tokens import put_key
from daemon.store.backup import BackupFile, Contents, Progress, examine
from daemon.store.connection import Transaction, connect
from daemon.store.lock import DaemonLock
from daemon.store.migrate import migrate, migrations
from daemon.store.notifications import drop_notifications
from daemon.store.read_only import explain
from daemon.store.schedules import undecidable_schedules
from daemon.store.unfinished_runs import supervisors_of
from daemon.store.witness import Witness, read_witness, renew, write_witness

_FRESH = f"{DATABASE}.restoring"


@dataclass(frozen=True)
class Steps:
    """Whom to tell how far a restore is."""

    begin: Callable[[str], None]
    """Called with the name of each step."""
    progress: Progress
    """Called with what is done of a step and the total, if they are known."""


@dataclass(frozen=True)
class Restored:
    """The result of a restore."""

    contents: Contents
    numbers_from: int
    """The lowest number that the next run can get."""
    unknown: list[int]
    """Runs that have a folder but are not in the backup."""
    replaced: Path | None
    """Where the previous database is now; None if there was none."""
    replaced_folders: Path | None
    """Where the folders are now that belonged to other runs than those with the same numbers in the backup."""
    dropped: int
    """How many notifications waited in the backup, and are not sent any more."""
    undecidable: dict[str, str]
    """The schedules that start nothing since this host does not have their time zone, and these zones."""


def restore(state_dir: Path, source: BackupFile, now: datetime, outbox: Outbox, steps: Steps) -> Restored:
    """Restore the database of a state directory from a backup, while no daemon runs on it.

    Due times before `now` that are not in the backup are recorded as missed; runs that have not begun in it become
    interrupted. Notifications that waited in it are dropped: they are old, and may have been sent since. Run numbers
    continue above the highest ever given. The previous database is kept beside the restored
    one, and is not changed until the backup replaces it. Raise RefusedError if a daemon runs, or agents that the backup
    does not know; raise StoreError if it fails.
    """
    lock = DaemonLock(state_dir)
    try:
        return _restore(state_dir, source, now, outbox, steps)
    except OSError as error:
        place = f": {error.filename}" if error.filename else ""
        raise StoreError(f"cannot restore into {state_dir}: {error.strerror}{place}") from None
    except sqlite3.Error as error:
        why = explain(state_dir / DATABASE, error)
        raise StoreError(f"cannot restore {source.path} into {state_dir}: {why}") from None
    finally:
        lock.release()


@contextlib.contextmanager
def _explain_failure(replaced: Path | None) -> Iterator[None]:
    """If the replacement fails midway, raise StoreError that says how to recover."""
    try:
        yield
    except OSError as error:
        previous = f"; the previous database is {replaced}" if replaced else ""
        fix = "fix this and restore again before you start a daemon"
        raise StoreError(f"restore failed midway: {error.strerror}: {error.filename}{previous}; {fix}") from None


def _restore(state_dir: Path, source: BackupFile, now: datetime, outbox: Outbox, steps: Steps) -> Restored:
    (state_dir / "runs").mkdir(mode=0o700, exist_ok=True)
    fresh, path = state_dir / _FRESH, state_dir / DATABASE
    try:
        _remove(fresh)
        steps.begin("Copying the backup")
        source.copy_to(fresh, steps.progress)
        steps.begin("Verifying every page")
        contents = examine(fresh, source.path)
        steps.begin("Ending what is unknown")
        folders = runs_with_folders(state_dir)
        others = _folders_of_others(state_dir, fresh, folders)
        _refuse_beside_unknown_agents(state_dir, fresh, others)
        witness, dropped = _renewed(fresh, state_dir, folders, contents, now, outbox)
        steps.begin("Replacing the database")
        replaced = _set_aside(path, now)
        with _explain_failure(replaced):
            if contents.hook_key is not None:  # so that hook URLs given to agents remain valid
                put_key(state_dir, contents.hook_key)
            fresh.replace(path)
            replaced_folders = _move_aside(state_dir, others, now)  # no daemon starts until the witness is written
            write_witness(state_dir, witness)
    finally:
        _remove(fresh)
    with contextlib.closing(connect(path, read_only=True)) as connection:
        known = {row["id"] for row in connection.execute("SELECT id FROM runs")}
        undecidable = undecidable_schedules(connection)
    unknown = sorted(folders - known)
    return Restored(contents, witness.highest_run + 1, unknown, replaced, replaced_folders, dropped, undecidable)


def _renewed(
    fresh: Path, state_dir: Path, folders: Collection[int], contents: Contents, now: datetime, outbox: Outbox
) -> tuple[Witness, int]:
    """Migrate a copy to this version, give it its own identity, and end what is unknown in it.

    Return its witness, and how many notifications were dropped.
    """
    highest_run = max(contents.highest_run, max(folders, default=0), _highest_witnessed(state_dir))
    with contextlib.closing(connect(fresh)) as connection:
        try:
            migrate(connection, fresh, migrations(), keep_before=False)
        except StoreError as error:
            raise StoreError(f"cannot migrate the backup to this version: {error}") from None
        connection.execute("BEGIN IMMEDIATE")
        connection.execute("DROP TABLE IF EXISTS backup")
        witness = renew(connection, highest_run, now, lost=True)
        begun, tx = partial(_was_begun, state_dir), Transaction(connection)
        dropped = drop_notifications(tx, "the database was restored from a backup", now)
        start_from_copy(tx, now, begun, outbox)
        connection.execute("COMMIT")
        connection.execute("PRAGMA journal_mode = DELETE")  # one file, so that one rename replaces the database
    return witness, dropped


def _was_begun(state_dir: Path, run_id: int) -> bool:
    return status.may_have_started(str(run_folder(state_dir, run_id)))


def _folders_of_others(state_dir: Path, fresh: Path, folders: Collection[int]) -> list[int]:
    """Return the runs of the copy whose folders belong to runs of another database with the same numbers."""
    with contextlib.closing(connect(fresh, read_only=True)) as connection:
        runs = connection.execute("SELECT id, idempotency_key FROM runs")
        return [
            row["id"]
            for row in runs
            if row["id"] in folders
            and status.belongs_to_another_run(str(run_folder(state_dir, row["id"])), row["idempotency_key"])
        ]


def _move_aside(state_dir: Path, others: Collection[int], now: datetime) -> Path | None:
    """Move the folders of other runs away, so that they are not taken for folders of the backup's runs."""
    if not others:
        return None
    place = _unused(state_dir / "runs" / f".replaced-{now:%Y%m%dT%H%M%SZ}")
    place.mkdir(mode=0o700)
    for number in others:
        run_folder(state_dir, number).rename(place / str(number))
    return place


def _refuse_beside_unknown_agents(state_dir: Path, fresh: Path, others: Collection[int]) -> None:
    """Raise RefusedError if agents work whose supervisors the copy does not know, since no run would own them."""
    with contextlib.closing(connect(fresh, read_only=True)) as connection:
        known = supervisors_of(connection)
    unknown = [
        one for one in living_supervisors(state_dir) if one.run in others or not one.is_known_as(known.get(one.run))
    ]
    if unknown:
        runs = ", ".join(map(str, sorted({one.run for one in unknown})))
        pids = " ".join(str(one.process.pid) for one in unknown)
        raise RefusedError(
            f"agents work that the backup does not know, on the runs {runs}; wait "
            f"until they end, or end them with their supervisors: kill {pids}"
        )


def _highest_witnessed(state_dir: Path) -> int:
    """Return the highest run number in the witness; 0 if it cannot be read."""
    with contextlib.suppress(StoreError):
        witness = read_witness(state_dir)
        return witness.highest_run if witness else 0
    return 0


def _set_aside(path: Path, now: datetime) -> Path | None:
    if not os.path.lexists(path):
        for suffix in DATABASE_PARTS[1:]:
            path.with_name(path.name + suffix).unlink(missing_ok=True)
        return None
    with contextlib.suppress(sqlite3.Error, StoreError), contextlib.closing(connect(path)) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")  # into one file, if the database is readable
    aside = _unused(path.with_name(f"{path.name}.replaced-{now:%Y%m%dT%H%M%SZ}"))
    for suffix in DATABASE_PARTS[1:]:
        part = path.with_name(path.name + suffix)
        if os.path.lexists(part):
            part.replace(aside.with_name(aside.name + suffix))
    return path.replace(aside)


def _unused(path: Path) -> Path:
    """Return a path, with a number appended if it exists, so that nothing kept is overwritten."""
    places = chain((path,), (path.with_name(f"{path.name}-{number}") for number in count(2)))
    return next(place for place in places if not os.path.lexists(place))


def _remove(fresh: Path) -> None:
    for suffix in DATABASE_PARTS:
        fresh.with_name(fresh.name + suffix).unlink(missing_ok=True)
