"""Check workspaces: those that cannot be removed, and the room that saved work and unused mirrors take."""

import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from daemon.config.schema import Config
from daemon.doctor.findings import Finding, note, warning
from daemon.store.workspaces import present_workspaces, saved_work
from daemon.text import plural
from daemon.units import format_size
from daemon.workspaces.disk_usage import folder_size
from daemon.workspaces.kept_commits import keeps_commits
from daemon.workspaces.layout import ENVIRONMENTS, MIRROR, TASKS
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


def check_mirrors(config: Config, folder: Path) -> Iterator[Finding]:
    """Find mirrors of environments that the config does not have any more."""
    for mirror in sorted((folder / ENVIRONMENTS).glob(f"*/{MIRROR}")):
        name = mirror.parent.name
        if source_of(config, name) is not None:
            continue
        size = format_size(folder_size(folder, (ENVIRONMENTS, name, MIRROR)))
        what = f"{mirror}, {size}, belongs to an environment that is not in the config"
        if any((mirror.parent / TASKS).glob("*")):
            yield note("workspaces", f"{what}, but still has workspaces")
        elif keeps_commits(mirror):
            yield note("workspaces", f"{what}; saved work needs it until retention deletes its runs")
        else:
            yield warning("workspaces", what, f"`rm -r {mirror.parent}` if the environment will not come back")
