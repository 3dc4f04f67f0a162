"""The state directory: who may see it, whether the database is whole, and what belongs to no run."""

import contextlib
import os
import pwd
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISDIR, S_ISSOCK

from daemon.agents.process.launcher import living_supervisors
from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config
from daemon.doctor.findings import Finding, error, note, ok, warning
from daemon.errors import NewerSchemaError, StoreError, StoreUnavailableError
from daemon.model import DATABASE, DATABASE_PARTS, HOOK_KEY, LOCK, STATE_FOLDERS, WITNESS
from daemon.runs.folder import runs_with_folders
from daemon.runs.hook_tokens import open_key
from daemon.store.backup import examine
from daemon.store.connection import Transaction
from daemon.store.lock import running_daemon
from daemon.store.read_only import open_to_read
from daemon.store.runs import active_runs
from daemon.store.witness import find_loss, read_witness, witness_of
from daemon.units import format_size

_LARGEST_LOG = 64 * 1024**2
_RESTORE = "stop the daemon, and put a backup back with `agentcron restore`"


def check_state(config: Config, user: str | None) -> Iterator[Finding]:
    """Find what is wrong with the state directory, for the user that the daemon runs as, and with what is in it."""
    folder = state_dir(config)
    try:
        owner = folder.stat().st_uid
    except FileNotFoundError:
        if folder.is_symlink():
            yield error("state", f"{folder} is a link to what is not there", f"make it, or rm {folder}")
        else:
            yield note("state", f"{folder} is not there yet; the first start makes it")
    except OSError as problem:
        yield error("state", f"{folder}: {problem.strerror}", "run doctor as root or as the daemon's user")
    else:
        yield from _check_folder(config, folder, owner, user)


def _check_folder(config: Config, folder: Path, owner: int, user: str | None) -> Iterator[Finding]:
    if user is not None and _number(user) not in {None, owner}:
        what = f"{folder} belongs to {_name(owner)}, and the unit runs as {user}"
        yield error("state", what, f"chown -R {user} {folder}")
        return
    yield from _check_rights(config, folder)
    if not os.access(folder, os.R_OK | os.X_OK):
        yield error("state", f"{folder} is closed to you", "run doctor as root or as the daemon's user")
        return
    yield from _check_content(folder)


def _check_content(folder: Path) -> Iterator[Finding]:
    if not (folder / DATABASE).exists():
        missing = (folder / WITNESS).exists()
        what = f"{folder / DATABASE} is gone, but was there" if missing else f"there is no {folder / DATABASE} yet"
        yield error("database", what, _RESTORE) if missing else note("database", what)
        return
    if not os.access(folder / DATABASE, os.R_OK):
        yield error("database", f"{folder / DATABASE} is closed to you", f"give it to {_name(folder.stat().st_uid)}")
        return
    yield from _check_database(folder)
    yield from _check_key(folder)
    try:
        yield from _check_orphans(folder)
    except NotADirectoryError:
        return  # what is in the way was told
    except OSError as problem:
        yield error(
            "state", f"{problem.filename}: {problem.strerror}", f"chown -R {_name(folder.stat().st_uid)} {folder}"
        )
    except (sqlite3.Error, StoreError):
        return  # what is wrong with the database was told


def _check_rights(config: Config, folder: Path) -> Iterator[Finding]:
    found = folder.stat()
    owner = _name(found.st_uid)
    if found.st_mode & 0o077:
        yield error("state", f"{folder} is open to others (mode {found.st_mode & 0o777:04o})", f"chmod 0700 {folder}")
    elif not os.access(folder, os.W_OK):
        yield error("state", f"{folder} cannot be written", "mount it writable, or run doctor as the daemon's user")
    else:
        yield ok("state", f"{folder} belongs to {owner} alone")
    files = [*(DATABASE + part for part in DATABASE_PARTS), WITNESS, HOOK_KEY, LOCK]
    for path in (folder / name for name in (*files, *STATE_FOLDERS)):
        with contextlib.suppress(OSError):
            stat = path.stat()
            if stat.st_uid != found.st_uid:
                mend = f"chown {owner} {path}"
                yield error("state", f"{path} belongs to {_name(stat.st_uid)}, the state to {owner}", mend)
            is_folder = path.name in STATE_FOLDERS
            if S_ISDIR(stat.st_mode) != is_folder:
                what = f"{path} is {'no folder' if is_folder else 'no plain file'}"
                yield error("state", what, f"look what put it there, and move it away: mv {path} {path}.odd")
            elif stat.st_mode & 0o077:
                mend = f"chmod {'0700' if is_folder else '0600'} {path}"
                yield error("state", f"{path} is open to others (mode {stat.st_mode & 0o777:04o})", mend)
    with contextlib.suppress(OSError):
        place = socket_path(config)
        mode = place.stat().st_mode
        if not S_ISSOCK(mode):
            yield error("socket", f"{place} is no socket", "move it away, or name another control.socket")
        elif mode & 0o007:
            yield error("socket", f"{place} is open to everybody", f"chmod 0660 {place}")


def _check_key(folder: Path) -> Iterator[Finding]:
    if (folder / HOOK_KEY).exists():
        try:
            open_key(folder)
        except StoreError as problem:
            yield error("hooks", str(problem), f"mv {folder / HOOK_KEY} {folder / HOOK_KEY}.damaged")


def _check_database(folder: Path) -> Iterator[Finding]:
    path = folder / DATABASE
    try:
        contents = examine(path, look=open_to_read)
        yield ok("database", f"{path} is whole: {contents.runs} runs, {format_size(path.stat().st_size)}")
        with contextlib.closing(open_to_read(path)) as connection:
            loss = find_loss(read_witness(folder), witness_of(connection))
        if loss is not None and running_daemon(folder) is None:  # a daemon is ahead of the one or the other for moments
            yield error("witness", f"{path} {loss}", _RESTORE)
    except NewerSchemaError as problem:
        yield error("database", str(problem), "install that version of agentcron again")
    except StoreUnavailableError as problem:
        yield error("database", str(problem), "mend what keeps it from being read, and look again")
    except (StoreError, sqlite3.Error) as problem:
        yield error("database", str(problem), _RESTORE)
    log = path.with_name(f"{path.name}-wal")
    with contextlib.suppress(OSError):
        if log.stat().st_size > _LARGEST_LOG:
            what = f"{log} has grown to {format_size(log.stat().st_size)}"
            yield warning("database", what, "somebody reads the database for long (sqlite3?); end that")


def _check_orphans(folder: Path) -> Iterator[Finding]:
    """Find what no run owns; what is there is looked up first, since a run is in the database before it is there."""
    supervisors, folders = living_supervisors(folder), runs_with_folders(folder)
    places = [place for place in sorted((folder / "environments").glob("*/tasks/*")) if place.name.isdigit()]
    with contextlib.closing(open_to_read(folder / DATABASE)) as connection:
        active = set(active_runs(Transaction(connection)))
        known = {row["id"] for row in connection.execute("SELECT id FROM runs")}
    still = living_supervisors(folder)  # one that has just ended is no orphan
    for run, pid in supervisors.items():
        if run not in active and still.get(run) == pid:
            what = f"process {pid} and its agent work for run {run}, which the database does not know as active"
            yield warning("supervisors", what, f"kill {pid}, which ends the agent, too")
    lost = sorted(folders - known)
    if lost:
        what = f"{len(lost)} folders in {folder / 'runs'} belong to no run, such as {lost[0]}"
        yield note("runs", what, "retention removes them when they are `days` old; without it, look and remove them")
    for place in sorted((folder / "environments").glob("*/quarantine/*")):
        yield warning("workspaces", f"{place} belonged to no known run", "look whether it holds work, then remove it")
    for place in places:
        if int(place.name) not in known and place.exists():
            yield warning("workspaces", f"{place} belongs to no run", "look whether it holds work, then remove it")


def _number(user: str) -> int | None:
    """Return the uid of a user that a unit names, None if there is no such user (which the unit's failure tells)."""
    if user.isdigit():
        return int(user)
    try:
        return pwd.getpwnam(user).pw_uid
    except KeyError:
        return None


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
