"""Check the state directory: permissions, integrity of the database, and files that belong to no run."""

import contextlib
import json
import os
import pwd
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from shlex import quote
from stat import S_ISDIR, S_ISREG, S_ISSOCK

from daemon.agents.process.launcher import living_supervisors
from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config
from daemon.doctor.findings import Finding, error, note, ok, warning
from daemon.doctor.workspaces import check_mirrors, check_quarantine, check_workspaces
from daemon.errors import DamagedRowError, NewerSchemaError, StoreError, StoreUnavailableError
from daemon.fires.blocked import no_cadence_fix, no_cadence_reason
from daemon.model import DATABASE, DATABASE_PARTS, HOOK_KEY, LAST_CONFIG, LOCK, STATE_FOLDERS, WITNESS
from daemon.path_owners import owner_name
from daemon.runs.folder import NUMBER, runs_with_folders
from daemon.runs.hook_tokens import open_key
from daemon.store.backup import examine
from daemon.store.lock import may_be_state, running_daemon
from daemon.store.read_only import open_to_read, reading
from daemon.store.rows import row_of
from daemon.store.runs import SELECT_RUNS, run_from
from daemon.store.schedules import SELECT_SCHEDULES, schedule_from, undecidable_schedules
from daemon.store.unfinished_runs import supervisors_of
from daemon.store.witness import find_loss, read_witness, witness_of
from daemon.text import plural
from daemon.units import format_size, parse_instant
from daemon.workspaces.removal import TRASH

_MOST_ROWS = 10_000  # that are read of a table
_MOST_DAMAGED = 5  # rows that are named
_LARGEST_WAL = 64 * 1024**2  # bytes
_AS_DAEMONS_USER = "run doctor as root or as the daemon's user"
_RESTORE = "stop the daemon, and restore a backup with `agentcron restore FILE`"


def check_state(config: Config, user: str | None) -> Iterator[Finding]:
    """Find problems of the state directory and its content; `user` is who the daemon runs as, None if unknown."""
    folder = state_dir(config)
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        if folder.is_symlink():
            yield error(
                "state", f"{folder} is a dangling symbolic link", f"create its target, or `rm {quote(str(folder))}`"
            )
        else:
            yield note("state", f"{folder} does not exist yet; the first start creates it")
    except OSError as problem:
        yield error("state", f"{folder}: {problem.strerror}", _AS_DAEMONS_USER)
    else:
        yield from _check_folder(config, folder, owner, user)


def _check_folder(config: Config, folder: Path, owner: int, user: str | None) -> Iterator[Finding]:
    if user is not None and _uid_of(user) not in {None, owner}:
        what = f"{folder} belongs to {owner_name(owner)}, but the unit runs as {user}"
        yield error("state", what, _fix(folder, f"chown -R {user}"))
        return
    yield from _check_rights(config, folder)
    if not os.access(folder, os.R_OK | os.X_OK):
        yield error("state", f"no permission to read {folder}", _AS_DAEMONS_USER)
        return
    yield from _check_content(folder)
    yield from check_mirrors(config, folder)


def _fix(folder: Path, command: str) -> str:
    """Return a command on the state directory, unless that is a directory of something else."""
    with contextlib.suppress(OSError):  # we may not list it
        if not may_be_state(folder):
            return "it holds other things and no state: set state_dir to a directory that holds nothing else"
    return f"{command} {quote(str(folder))}"


def _check_trash(folder: Path) -> Iterator[Finding]:
    """Find what a cleanup could not delete; the next ones retry it."""
    for place in STATE_FOLDERS:
        trash = folder / place / TRASH
        try:
            left = sum(1 for _ in os.scandir(trash))
        except OSError:  # there is none
            continue
        if left:
            what = f"{plural(left, 'folder')} in {trash} could not be deleted yet, and take up space"
            yield warning("trash", what, "the log says why ([cleanup] ERROR); each cleanup retries it")


def _check_content(folder: Path) -> Iterator[Finding]:
    if not os.path.lexists(folder / DATABASE):
        missing = os.path.lexists(folder / WITNESS)
        what = f"{folder / DATABASE} is missing, but existed" if missing else f"{folder / DATABASE} does not exist yet"
        yield error("database", what, _RESTORE) if missing else note("database", what)
        return
    if not os.access(folder / DATABASE, os.R_OK):
        yield error(
            "database",
            f"no permission to read {folder / DATABASE}",
            f"chown -h {owner_name(folder.stat().st_uid)} {quote(str(folder / DATABASE))}",
        )
        return
    yield from _check_database(folder)
    yield from _check_rows(folder)
    yield from _check_cadences(folder)
    yield from _check_key(folder)
    yield from _check_trash(folder)
    try:
        yield from _check_orphans(folder)
    except NotADirectoryError:
        return  # already reported
    except OSError as problem:
        yield error(
            "state",
            f"{problem.filename}: {problem.strerror}",
            f"chown -R {owner_name(folder.stat().st_uid)} {quote(str(folder))}",
        )
    except (sqlite3.Error, StoreError):
        return  # already reported


def _check_rights(config: Config, folder: Path) -> Iterator[Finding]:
    found = folder.stat()
    owner = owner_name(found.st_uid)
    if found.st_mode & 0o077:
        yield error(
            "state",
            f"{folder} is accessible to other users (mode {found.st_mode & 0o777:04o})",
            _fix(folder, "chmod 0700"),
        )
    elif not os.access(folder, os.W_OK):
        yield error("state", f"cannot write to {folder}", "mount it writable, or run doctor as the daemon's user")
    else:
        yield ok("state", f"{folder} is accessible only to {owner}")
    files = [*(DATABASE + part for part in DATABASE_PARTS), WITNESS, HOOK_KEY, LAST_CONFIG, LOCK]
    for path in (folder / name for name in (*files, *STATE_FOLDERS)):
        with contextlib.suppress(OSError):
            yield from _check_entry(path, found.st_uid)
    with contextlib.suppress(OSError):
        socket = socket_path(config)
        mode = socket.stat().st_mode
        if not S_ISSOCK(mode):
            yield error("socket", f"{socket} is not a socket", "move it away, or set another control.socket")
        elif mode & 0o007:
            yield error("socket", f"{socket} is accessible to everybody", f"chmod 0660 {quote(str(socket))}")


def _check_entry(path: Path, owner: int) -> Iterator[Finding]:
    """Check what is at a path of the state directory, whose owner may have put anything there; raise OSError.

    A fix that root runs follows no link: it could give that user any file of the host.
    """
    is_folder = path.name in STATE_FOLDERS
    status = path.stat() if is_folder else path.lstat()
    if not (S_ISDIR if is_folder else S_ISREG)(status.st_mode):
        what = f"{path} is not {'a directory' if is_folder else 'a regular file'}"
        yield error("state", what, f"find out what created it, and move it away: `{_move_away(path, 'odd')}`")
        return
    is_link = path.is_symlink()
    if status.st_uid != owner:
        user = owner_name(owner)
        fix = f"have it lead to a directory of {user}" if is_link else f"chown -h {user} {quote(str(path))}"
        yield error("state", f"{path} belongs to {owner_name(status.st_uid)}, but the state directory to {user}", fix)
    if status.st_mode & 0o077:
        fix = f"chmod {'0700' if is_folder else '0600'} {quote(str(path))}"
        fix = "close the directory that it leads to" if is_link else fix
        yield error("state", f"{path} is accessible to other users (mode {status.st_mode & 0o777:04o})", fix)


def _move_away(path: Path, suffix: str) -> str:
    return f"mv {quote(str(path))} {quote(f'{path}.{suffix}')}"


def _check_key(folder: Path) -> Iterator[Finding]:
    if os.path.lexists(folder / HOOK_KEY):
        try:
            open_key(folder)
        except StoreError as problem:
            yield error("hooks", str(problem), _move_away(folder / HOOK_KEY, "damaged"))


def _check_database(folder: Path) -> Iterator[Finding]:
    path = folder / DATABASE
    try:
        contents = examine(path, look=open_to_read)
        yield ok("database", f"{path} is intact: {plural(contents.runs, 'run')}, {format_size(path.stat().st_size)}")
        with reading(path) as connection:
            loss = find_loss(read_witness(folder), witness_of(connection))
        if loss is not None and running_daemon(folder) is None:  # a daemon updates them one after the other
            yield error("witness", f"{path} {loss}", _RESTORE)
    except NewerSchemaError as problem:
        yield error("database", str(problem), "install that version of agentcron again")
    except StoreUnavailableError as problem:
        yield error("database", str(problem), "fix what prevents reading it, and run doctor again")
    except (StoreError, sqlite3.Error) as problem:
        yield error("database", str(problem), _RESTORE)
    wal = path.with_name(f"{path.name}-wal")
    with contextlib.suppress(OSError):
        if wal.stat().st_size > _LARGEST_WAL:
            what = f"{wal} has grown to {format_size(wal.stat().st_size)}"
            yield warning("database", what, "a long-running reader, perhaps sqlite3, holds the database open; end it")


def _check_rows(folder: Path) -> Iterator[Finding]:
    """Find rows that cannot be read, among the schedules and the newest runs."""
    readers: tuple[tuple[str, Callable[[sqlite3.Row], object]], ...] = (
        (f"{SELECT_SCHEDULES} ORDER BY id DESC LIMIT ?", schedule_from),
        (f"{SELECT_RUNS} ORDER BY r.id DESC LIMIT ?", _check_run),
    )
    found = 0
    try:
        with reading(folder / DATABASE) as connection:
            for sql, read in readers:
                for row in connection.execute(sql, (_MOST_ROWS,)):
                    try:
                        read(row)
                    except DamagedRowError as problem:
                        found += 1
                        if found <= _MOST_DAMAGED:
                            yield error("database", str(problem), _RESTORE)
    except (sqlite3.Error, StoreError):
        return  # already reported


def _check_cadences(folder: Path) -> Iterator[Finding]:
    """Find schedules that start nothing since it is unknown when they are due."""
    with contextlib.suppress(sqlite3.Error, StoreError), reading(folder / DATABASE) as connection:
        for schedule, zone in undecidable_schedules(connection).items():
            what = f"{schedule} starts nothing: {no_cadence_reason(zone)}"
            yield error("zones", what, no_cadence_fix(quote(schedule)))


def _check_run(row: sqlite3.Row) -> None:
    run = run_from(row)
    with row_of(f"run {run.id}"):
        if run.unusable is not None:
            raise ValueError(run.unusable)
        for instant in (run.scheduled_for, run.created_at, run.started_at, run.completed_at):
            if instant is not None:
                parse_instant(instant)
        for document in (run.task_params, run.task_metadata, run.settings):
            json.loads(document or "{}")


def _check_orphans(folder: Path) -> Iterator[Finding]:
    """Find processes and files that belong to no run.

    The files are listed first, the runs after: a run is in the database before its files exist.
    """
    supervisors, folders = living_supervisors(folder), runs_with_folders(folder)
    workspaces = [path for path in sorted((folder / "environments").glob("*/tasks/*")) if NUMBER.fullmatch(path.name)]
    with reading(folder / DATABASE) as connection:
        working = supervisors_of(connection)
        known = {row["id"] for row in connection.execute("SELECT id FROM runs")}
        yield from check_workspaces(connection, folder)
    still = living_supervisors(folder)  # one that has just ended is not an orphan
    for one in supervisors:
        if one in still and not one.is_known_as(working.get(one.run)):
            pid, why = one.process.pid, "has another process" if one.run in working else "is not running"
            what = f"process {pid} and its agent work on run {one.run}, which {why} in the database"
            yield warning("supervisors", what, f"`kill {pid}` ends both")
    lost = sorted(folders - known)
    if lost:
        what = f"{plural(len(lost), 'folder')} in {folder / 'runs'} without a run, such as {lost[0]}"
        yield note("runs", what, "retention deletes them after `days`; without retention, check and delete them")
    yield from check_quarantine(folder)
    for path in workspaces:
        if int(path.name) not in known and path.exists():
            yield warning("workspaces", f"{path} belongs to no run", "check whether it holds work, then delete it")


def _uid_of(user: str) -> int | None:
    """Return the uid of a user that a unit names, None if there is no such user (the unit then fails to start)."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None
