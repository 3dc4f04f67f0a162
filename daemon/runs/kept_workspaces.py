"""The place that a schedule keeps for its runs (`workspace = "keep"`): which run works there, and how it is made anew.

Each run gets a new clone there, as it does elsewhere: git that runs in a clone which an agent had could be made to
execute or delete anything. What the last run left is saved and removed first, with the same rights and limits as at a
cleanup. Where that is impossible, it moves out of the way, to the place of an ordinary workspace of its run.
"""

from datetime import datetime
from functools import partial
from pathlib import Path

import structlog

from daemon.config.schema import Config, ProcessAgent
from daemon.rules.workspace_folders import TASKS, kept_folder, schedule_of_folder
from daemon.runs.settings import settings_of
from daemon.runs.workspace import WorkspacePreparation, record_removed
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.home import Home
from daemon.store.runs import Run
from daemon.store.unfinished_runs import user_of_kept_workspace
from daemon.store.workspaces import Workspace, get_workspace, is_at, mark_removed, set_path, workspace_in
from daemon.workspaces.layout import workspace_path

_LOG = structlog.get_logger()


def takes_kept_workspace(tx: Transaction, run: Run, config: Config, now: datetime) -> bool:
    """Return whether a run that is claimed now works in the place that its schedule keeps.

    One that starts beside another run there gets a workspace of its own, and stays in that if it is claimed again.
    """
    agent = config.agents.get(run.agent)
    name = agent.environment if isinstance(agent, ProcessAgent) else None
    environment = config.environments.get(name) if name else None
    if run.schedule_id is None or environment is None or environment.workspace != "keep":
        return False
    reason = _why_not_there(tx, run, run.schedule_id)
    if reason is not None:
        add_event(tx, run.id, now, "workspace_of_its_own", {"reason": reason})
    return reason is None


def _why_not_there(tx: Transaction, run: Run, schedule_id: int) -> str | None:
    """Return why a run cannot work in the place that its schedule keeps, None if it can."""
    other = user_of_kept_workspace(tx, schedule_id, run.id)
    if other is not None:
        return f"run {other} works in that of the schedule"
    known = get_workspace(tx, run.id)
    has_its_own = known is not None and known.state == "present" and not known.is_of_schedule
    return "it has one since it was first started" if has_its_own else None


def folder_of(run: Run) -> str:
    """Return the name of the folder in which a claimed run works."""
    keeps = run.schedule_id is not None and settings_of(run).keeps_workspace
    return kept_folder(run.schedule_id) if keeps and run.schedule_id is not None else str(run.id)


async def make_room(
    home: Home, preparation: WorkspacePreparation, run: Run, environment: str, seconds: float, salvage_max: int | None
) -> None:
    """Save and remove what is where a run is to work, within some seconds; raise RunPreparationError.

    It is recorded now, because the next step may fail.
    """
    folder = folder_of(run)
    keeps = schedule_of_folder(folder) is not None
    owner = await home.database.read_patiently(lambda c: workspace_in(c, environment, folder)) if keeps else None
    left = await preparation.remove_earlier(environment, seconds, salvage_max, owner)
    if left is None:
        return
    earlier = run.id if owner is None else owner.run_id
    if left.gone or left.in_trash:
        path = workspace_path(home.state_dir, environment, folder)
        await home.database.write_patiently(lambda tx: record_removed(tx, earlier, environment, path, left, home.now()))
    else:
        moved = await preparation.move_away(environment, seconds, earlier)
        _LOG.warning("[run] Moved away a workspace that cannot be removed", path=str(moved), reason=left.reason)
        if owner is not None and earlier != run.id:
            await home.database.write_patiently(partial(record_moved, home, owner, moved, left.reason))


def record_moved(home: Home, workspace: Workspace, path: Path, reason: str | None, tx: Transaction) -> None:
    """Record where the workspace of an earlier run is now, and why it could not be removed.

    In quarantine it is nobody's: its run has another one in its own place, as it has if it was claimed again since.
    """
    run_id, now = workspace.run_id, home.now()
    if is_at(tx, run_id, workspace.environment, workspace.folder):
        if path.parent.name == TASKS:
            set_path(tx, run_id, path)
        else:
            mark_removed(tx, run_id, now)
    add_event(tx, run_id, now, "workspace_moved", {"path": str(path), "reason": reason})
