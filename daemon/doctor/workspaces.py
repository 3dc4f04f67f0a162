"""Check workspaces: those that cannot be removed, and the room that saved work and unused mirrors take."""

import os
import shutil
import sqlite3
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from daemon.config.schema import Config
from daemon.doctor.findings import Finding, note, warning
from daemon.model import NAME
from daemon.store.workspaces import present_workspaces, saved_work
from daemon.text import plural
from daemon.units import format_size
from daemon.workspaces.disk_usage import folder_size
from daemon.workspaces.kept_commits import keeps_commits
from daemon.workspaces.layout import DAMAGED_MIRROR, ENVIRONMENTS, MIRROR, MIRROR_LOCK, QUARANTINE, SUBMODULES
from daemon.workspaces.sources import source_of


def check_workspaces(connection: sqlite3.Connection, folder: Path) -> Iterator[Finding]:
    """Find workspaces that could not be removed, and saved work that takes more room than is free."""
    for workspace in present_workspaces(connection):
        if workspace.note is not None and not workspace.kept:
            run = workspace.run_id
            fix = (
                f"fix the reason; or `agentcron workspaces discard {run}`, which has no size limit; or lose its work "
                f"with `agentcron workspaces discard {run} --without-saving`"
            )
            yield warning("workspaces", f"{workspace.path} could not be removed: {workspace.note}", fix)
    for environment, (runs, size) in sorted(saved_work(connection).items()):
        room = f"{format_size(size)} below {folder / 'runs'}"
        what = f"work saved from {environment}, of {plural(runs, 'run')}, takes {room}"
        if size > shutil.disk_usage(folder).free:
            fix = "restore what is needed and let retention delete old runs (retention.days), which deletes it too"
            yield warning("workspaces", f"{what}, more than is free on the disk", fix)
        else:
            yield note("workspaces", what)


def check_quarantine(folder: Path) -> Iterator[Finding]:
    """Find what was moved out of the way: workspaces of no known run, and damaged mirrors that saved work may need."""
    for path in sorted((folder / ENVIRONMENTS).glob(f"*/{QUARANTINE}/*")):
        if path.name.startswith(DAMAGED_MIRROR) and _may_keep_commits(path):
            what = f"{path} is a damaged mirror; work saved from earlier runs may need commits that it keeps"
            fix = "delete it once retention has deleted the runs that ended before it was damaged"
        else:
            what, fix = f"{path} belonged to no known run", "check whether it holds work, then delete it"
        yield warning("workspaces", what, fix)


def _may_keep_commits(mirror: Path) -> bool:
    try:
        return keeps_commits(mirror)
    except OSError:
        return True


def check_mirrors(config: Config, folder: Path) -> Iterator[Finding]:
    """Find mirrors without a git environment in the config, below folders whose names an agent may have chosen."""
    names = (MIRROR, DAMAGED_MIRROR, SUBMODULES)
    places = {path.parent for name in names for path in (folder / ENVIRONMENTS).glob(f"[!.]*/{name}")}
    for place in sorted(places):
        if not NAME.fullmatch(place.name):
            what = f"{place} does not have the name of an environment"
            yield warning("workspaces", what, "find out what created it, and move it away")
        elif source_of(config, place.name) is None:
            mirror = next(place / name for name in names if os.path.lexists(place / name))
            try:
                yield _unused(folder, mirror)
            except OSError as problem:
                fix = f"find out what changed it; saved work may need it: {problem.filename or mirror}"
                yield warning("workspaces", f"{mirror} cannot be read: {problem.strerror}", fix)


def _unused(folder: Path, mirror: Path) -> Finding:
    """Return what holds a mirror that no environment uses, or that nothing does; raise OSError."""
    environment = mirror.parent
    names = {mirror.name, SUBMODULES}  # mirrors of submodules hold nothing that saved work needs
    size = format_size(sum(folder_size(folder, (ENVIRONMENTS, environment.name, name)) for name in names))
    what = f"{mirror}, {size}, has no git environment in the config"
    beside = [one.name for one in sorted(environment.iterdir()) if one.name not in names and not _is_empty(one)]
    if beside:
        are = "is" if len(beside) == 1 else "are"
        return note("workspaces", f"{what}; beside it, {' and '.join(beside)} {are} not empty")
    if keeps_commits(mirror):
        return note("workspaces", f"{what}; saved work needs it until retention deletes its runs")
    fix = f"if the environment will not come back, as the daemon's user: `rm -r {quote(str(environment))}`"
    return warning("workspaces", what, fix)


def _is_empty(entry: Path) -> bool:
    """Tell whether an entry can hold no work: an empty folder or file, or the lock of the mirror, whatever it notes."""
    found = entry.lstat()
    if stat.S_ISREG(found.st_mode):
        return found.st_size == 0 or entry.name == MIRROR_LOCK
    return stat.S_ISDIR(found.st_mode) and not any(entry.iterdir())
