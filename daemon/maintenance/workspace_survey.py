"""Brings the records of workspaces into line with what is on the disk: sizes, missing folders, unknown folders."""

from collections.abc import Iterable
from dataclasses import asdict
from functools import partial
from typing import TypeVar

import structlog

from daemon.model import ACTIVE
from daemon.problems import described
from daemon.rules.workspace_folders import schedule_of_folder
from daemon.store.connection import Transaction, concerns_others
from daemon.store.events import add_event
from daemon.store.group_commit import Closure
from daemon.store.home import Home
from daemon.store.runs import get_run, update_run
from daemon.store.unfinished_runs import unfinished_of
from daemon.store.workspaces import (
    Workspace,
    add_workspace,
    by_environment,
    get_workspace,
    mark_removed,
    set_bytes,
    set_path,
    set_saved_bytes,
    workspace_in,
)
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError
from daemon.workspaces.jobs import FindSavedWork, MeasureWorkspaces, QuarantineWorkspace, SavedWork
from daemon.workspaces.layout import workspace_path

T = TypeVar("T")
_LOG = structlog.get_logger()
_PART = "cleanup"  # whose problems these are


class WorkspaceSurvey:
    """One comparison of disk and database, by a helper process."""

    def __init__(self, home: Home, helper: WorkspaceHelper) -> None:
        self.failed: set[str] = set()
        """What could not be recorded, as subjects of problems."""
        self._home = home
        self._helper = helper

    async def measure(self, present: Iterable[Workspace]) -> None:
        """Record how large workspaces are; raise WorkspaceHelperError."""
        sizes: dict[int, int] = {}
        for name, group in by_environment(present).items():
            measured = await self._helper.measure_workspaces(
                MeasureWorkspaces(name, {one.run_id: one.folder for one in group})
            )
            sizes |= measured.by_run
        if sizes:
            await self._home.database.write_if_possible(lambda tx: set_bytes(tx, sizes))

    async def reconcile(self, present: Iterable[Workspace]) -> None:
        """Reconcile database and disk: register or quarantine unknown folders, and close rows without folders."""
        survey = (await self._helper.list_workspaces()).by_environment
        on_disk = {(environment, name) for environment, names in survey.items() for name in names or ()}
        in_database = {(one.environment, one.folder): one for one in present}
        for place, workspace in in_database.items():
            is_listed = survey.get(workspace.environment, []) is not None
            was_moved = (workspace.environment, str(workspace.run_id)) in on_disk
            is_changing = self._home.turn(*place).locked() or workspace.status in ACTIVE
            if is_listed and place not in on_disk and not is_changing and not was_moved:
                _LOG.warning("[cleanup] A workspace is missing that agentcron did not remove", run_id=workspace.run_id)
                await self._close(workspace.run_id)
        for environment, name in sorted(on_disk - in_database.keys()):
            if await self._write_of(name, partial(self._register, environment, name)) is False:
                await self._quarantine(environment, name)

    async def _close(self, run_id: int) -> None:
        """Record that a workspace is missing, with what was saved of it; where that cannot be read, record nothing."""
        try:
            found = await self._helper.find_saved_work(FindSavedWork(run_id))
        except WorkspaceHelperError as error:  # the next sweep tries again
            self._note_failure(str(run_id), error)
            _LOG.error("[cleanup] ERROR: Cannot read the saved work of a workspace", run_id=run_id, error=str(error))
        else:
            await self._write_of(str(run_id), partial(self._record_lost, run_id, found.saved))

    async def _write_of(self, name: str, closure: Closure[T]) -> T | None:
        """Write about one workspace unless the database cannot be written; an error does not affect the others."""
        try:
            return await self._home.database.write_if_possible(closure)
        except Exception as error:
            if concerns_others(error):
                raise
            self._note_failure(name, error)
            _LOG.exception("[cleanup] ERROR: Failed to record a workspace", name=name)
            return None

    def _note_failure(self, name: str, error: Exception) -> None:
        self.failed.add(f"workspace {name}")
        self._home.problems.report(_PART, described(error), subject=f"workspace {name}")

    async def _quarantine(self, environment: str, name: str) -> None:
        try:
            moved = await self._helper.quarantine_workspace(QuarantineWorkspace(environment, name))
        except WorkspaceHelperError as error:
            _LOG.error("[cleanup] Cannot move away a workspace of an unknown run", name=name, error=str(error))
        else:
            _LOG.warning("[cleanup] Moved away a workspace of an unknown run", path=str(moved.path))

    def _record_lost(self, run_id: int, saved: SavedWork | None, tx: Transaction) -> None:
        """Record that a workspace is missing; a script may have removed it, after saving its work."""
        mark_removed(tx, run_id, self._home.now())
        update_run(tx, run_id, self._home.now())  # the saved work is kept as long as the run
        if saved is not None:
            set_saved_bytes(tx, {run_id: saved.stored})
        add_event(tx, run_id, self._home.now(), "workspace_lost", {"saved": asdict(saved) if saved else None})

    def _register(self, environment: str, name: str, tx: Transaction) -> bool:
        """Record a folder as the workspace of its run; return whether it belongs to a known run."""
        schedule = schedule_of_folder(name)
        if schedule is not None:  # it was recorded after the sweep began, or a run makes it or will clean it up
            return workspace_in(tx, environment, name) is not None or bool(unfinished_of(tx, schedule))
        run = get_run(tx, int(name)) if name.isascii() and name.isdigit() and len(name) < 19 else None  # noqa: PLR2004
        if run is None or str(run.id) != name:
            return False
        known = get_workspace(tx, run.id)
        path = workspace_path(self._home.state_dir, environment, name)
        if known is not None and known.state == "present":
            if known.environment != environment:
                return False
            if known.is_of_schedule and run.status not in ACTIVE:  # moved, which was not recorded
                set_path(tx, run.id, path)
            return True  # it was recorded after the sweep began
        if run.status in ACTIVE:
            return True  # it is being made, and is recorded when it is complete
        add_workspace(tx, run.id, environment, path, self._home.now())
        add_event(tx, run.id, self._home.now(), "workspace_found", {"environment": environment})
        return True
