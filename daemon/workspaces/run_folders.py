"""The folders of runs that retention has deleted: whatever lies in `runs` without a row goes, with its bytes counted.

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
from dataclasses import asdict, dataclass
from datetime import datetime
from itertools import islice
from pathlib import Path
from typing import Any

from daemon.model import DATABASE
from daemon.workspaces.disk_usage import rooms_in
from daemon.workspaces.layout import RUNS
from daemon.workspaces.openat import open_forcibly, open_path
from daemon.workspaces.removal import TRASH, RefusedRemovalError, discard, empty_trash

_TOGETHER = 500  # folders that are looked up and measured at once


@dataclass
class Removed:
    """What became of folders without a run."""

    folders: int = 0
    bytes: int = 0

    def view(self) -> dict[str, Any]:
        """Return it as JSON has it."""
        return asdict(self)


def check_reachable(state_dir: Path) -> None:
    """Raise OSError if the folders of runs could not be removed: a link or a mount leads to them or to their trash."""
    for folders in ((RUNS,), (RUNS, TRASH)):
        try:
            os.close(open_path(state_dir, *folders, create=True))
        except OSError as error:
            place = state_dir.joinpath(*folders)
            reason = f"{place} is a link, a mount point or no folder, and nothing is deleted through those"
            raise OSError(error.errno, reason) from None


def remove_orphans(
    state_dir: Path, expired: str | None, say: Callable[[str], None], *, dry_run: bool = False
) -> Removed:
    """Remove the folders of runs that have no row any more, or only count them.

    Those from before a loss of the database that somebody accepted may be all that is left of their runs: they stay
    until they are older than `expired`, an instant as records have it, or for ever if that is None.
    """
    removed = Removed()
    with _opened(state_dir) as connection:
        [begun] = connection.execute("SELECT created_at FROM instance").fetchone()
        runs = open_path(state_dir, RUNS)
        try:
            with os.scandir(runs) as entries:
                numbers = (entry.name for entry in entries if _is_number(entry.name))
                while some := list(islice(numbers, _TOGETHER)):
                    orphans = [name for name in _without_row(connection, some) if _may_go(runs, name, begun, expired)]
                    sizes = rooms_in(state_dir, (RUNS,), orphans)
                    if dry_run:
                        folders = [name for name in orphans if stat.S_ISDIR((state_dir / RUNS / name).lstat().st_mode)]
                        removed.folders += len(folders)
                        removed.bytes += sum(sizes.get(name, 0) for name in folders)
                        continue
                    for name in orphans:
                        _remove(state_dir, name, sizes.get(name, 0), removed, say)
        finally:
            os.close(runs)
    return removed


@contextlib.contextmanager
def _opened(state_dir: Path) -> Iterator[sqlite3.Connection]:
    place = f"{(state_dir / DATABASE).absolute().as_uri()}?mode=ro"
    with contextlib.closing(sqlite3.connect(place, uri=True, timeout=10, isolation_level=None)) as connection:
        yield connection


def _is_number(name: str) -> bool:
    return name.isascii() and name.isdigit() and not name.startswith("0") and len(name) < 19  # noqa: PLR2004 - 2**63


def _without_row(connection: sqlite3.Connection, names: list[str]) -> list[str]:
    rows = connection.execute(
        "SELECT value FROM json_each(?) WHERE NOT EXISTS (SELECT 1 FROM runs WHERE id = CAST(value AS INTEGER))",
        (json.dumps(names),),
    )
    return [name for (name,) in rows]


def _may_go(runs: int, name: str, begun: str, expired: str | None) -> bool:
    """Tell whether nobody works in a run's folder, and it is of this database's time or has expired."""
    try:
        folder = open_forcibly(runs, name)
    except OSError:
        return True  # it is no folder that can be reached, as the door will tell
    try:
        made = min(os.fstat(folder).st_mtime, _age_of_input(folder))
        if made < _seconds(begun) and (expired is None or made >= _seconds(expired)):
            return False
        with _status(folder) as status:
            if status is not None:
                fcntl.flock(status, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except OSError:
        return False
    finally:
        os.close(folder)
    return True


def _age_of_input(folder: int) -> float:
    """Return when a run's input was written, which is when it began; infinity if that is gone."""
    try:
        return os.stat("input.txt", dir_fd=folder, follow_symlinks=False).st_mtime
    except FileNotFoundError:
        return math.inf


@contextlib.contextmanager
def _status(folder: int) -> Iterator[int | None]:
    """Open the record that a supervisor locks as long as it lives."""
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


def _remove(state_dir: Path, name: str, size: int, removed: Removed, say: Callable[[str], None]) -> None:
    try:
        trashed = discard(state_dir, (RUNS,), name)
        left = empty_trash(state_dir, RUNS, trashed) if trashed is not None else None
    except (RefusedRemovalError, OSError) as error:
        say(f"[retention] Refusing to remove {state_dir / RUNS / name}: {error}")
        return
    if left is not None and left.count:
        say(f"[retention] ERROR: {left.count} entries of run {name} cannot be deleted: {'; '.join(left.reasons)}")
    elif trashed is not None:
        removed.folders += 1
        removed.bytes += size
