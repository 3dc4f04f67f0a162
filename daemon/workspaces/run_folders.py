"""Remove the folders, not the workspaces, of deleted runs: those in `runs` that have no row in the database.

Standard library only: the helper process imports this.
"""

import contextlib
import fcntl
import json
import math
import os
import sqlite3
import stat
from collections.abc import Callable, Iterator
from datetime import datetime
from itertools import islice
from pathlib import Path

from daemon.model import DATABASE
from daemon.workspaces.disk_usage import entry_sizes
from daemon.workspaces.jobs import RemovedFolders
from daemon.workspaces.kept_commits import forget
from daemon.workspaces.layout import RUNS
from daemon.workspaces.openat import open_forcibly, open_path
from daemon.workspaces.removal import TRASH, RefusedRemovalError, discard, empty_trash

_BATCH = 500  # folders looked up and measured at once


def check_reachable(state_dir: Path) -> None:
    """Raise OSError if the folders of runs could not be removed: `runs` or its trash is a link or a mount point."""
    for folders in ((RUNS,), (RUNS, TRASH)):
        try:
            os.close(open_path(state_dir, *folders, create=True))
        except OSError as error:
            path = state_dir.joinpath(*folders)
            reason = f"{path} is a link, a mount point or not a folder; nothing is deleted through those"
            raise OSError(error.errno, reason) from None


def remove_orphans(
    state_dir: Path, expired: str | None, log: Callable[[str], None], *, dry_run: bool = False
) -> RemovedFolders:
    """Remove the folders of runs that have no row, with what mirrors keep for such runs, or only count the folders.

    A folder older than the database may be all that is left of its run after a data loss that somebody accepted. It
    stays until it is older than `expired`, an instant as the database writes it, or forever if that is None.
    """
    removed = RemovedFolders(0, 0)
    with _database(state_dir) as connection:
        [created_at] = connection.execute("SELECT created_at FROM instance").fetchone()
        runs = open_path(state_dir, RUNS)
        try:
            with os.scandir(runs) as entries:
                numbers = (entry.name for entry in entries if _is_number(entry.name))
                while some := list(islice(numbers, _BATCH)):
                    unknown = _without_row(connection, some)
                    orphans = [name for name in unknown if _is_removable(runs, name, created_at, expired)]
                    for size in _remove_all(state_dir, orphans, log, dry_run=dry_run):
                        removed = RemovedFolders(removed.folders + 1, removed.bytes + size)
        finally:
            os.close(runs)
        if not dry_run:
            forget(state_dir, lambda some: _gone(state_dir, _without_row(connection, some)), log)
    return removed


def _gone(state_dir: Path, names: list[str]) -> list[str]:
    """Return those runs of some without a row that have no folder either."""
    return [name for name in names if not os.path.lexists(state_dir / RUNS / name)]


@contextlib.contextmanager
def _database(state_dir: Path) -> Iterator[sqlite3.Connection]:
    uri = f"{(state_dir / DATABASE).absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(uri, uri=True, timeout=10, isolation_level=None)) as connection:
        yield connection


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 19  # noqa: PLR2004 - 2**63


def _without_row(connection: sqlite3.Connection, names: list[str]) -> list[str]:
    rows = connection.execute(
        "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = CAST(value AS INTEGER))",
        (json.dumps(names),),
    )
    return [name for (name,) in rows]


def _is_removable(runs: int, name: str, created_at: str, expired: str | None) -> bool:
    """Return whether nobody works in a run's folder, and it is younger than the database or has expired."""
    try:
        folder = open_forcibly(runs, name)
    except OSError:
        return True  # not a folder that can be opened: its removal will be refused and logged
    try:
        made_at = min(os.fstat(folder).st_mtime, _input_written_at(folder))
        if made_at < _seconds(created_at) and (expired is None or made_at >= _seconds(expired)):
            return False
        with _status(folder) as status:
            if status is not None:
                fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


def _input_written_at(folder: int) -> float:
    """Return when a run's input was written, which is when the run was started; infinity if the file is gone."""
    try:
        return os.stat("input.txt", dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return math.inf


@contextlib.contextmanager
def _status(folder: int) -> Iterator[int | None]:
    """Open the status file that a supervisor locks while it is alive; None if it cannot be opened."""
    try:
        status = os.open("status", os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=folder)
    except OSError:
        yield None
        return
    try:
        yield status
    finally:
        os.close(status)


def _seconds(instant: str) -> float:
    return datetime.fromisoformat(instant).timestamp()


def _remove_all(state_dir: Path, names: list[str], log: Callable[[str], None], *, dry_run: bool) -> Iterator[int]:
    """Remove the folders of some runs, or only count them; yield the bytes of each one that is or would be gone."""
    sizes = entry_sizes(state_dir, (RUNS,), names)
    for name in names:
        if _is_folder(state_dir / RUNS / name) if dry_run else _remove(state_dir, name, log):
            yield sizes.get(name, 0)


def _is_folder(path: Path) -> bool:
    return stat.S_ISDIR(path.lstat().st_mode)


def _remove(state_dir: Path, name: str, log: Callable[[str], None]) -> bool:
    """Remove the folder of a run; return whether it existed and is gone."""
    try:
        trashed = discard(state_dir, (RUNS,), name)
        left = empty_trash(state_dir, RUNS, trashed) if trashed is not None else None
    except (RefusedRemovalError, OSError) as error:
        log(f"[retention] Refusing to remove {state_dir / RUNS / name}: {error}")
        return False
    if left is not None and left.count:
        log(f"[retention] ERROR: Cannot delete {left.count} entries of run {name}: {'; '.join(left.reasons)}")
        return False
    return trashed is not None
