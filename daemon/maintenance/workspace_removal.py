"""Removes single workspaces in a helper process, after saving their work, and marks those that nobody may remove."""

import asyncio
from dataclasses import asdict, dataclass
from functools import partial

from daemon.config.effective import policy_of
from daemon.config.live import LiveConfig
from daemon.errors import NotFoundError, RefusedError
from daemon.metrics import Metrics
from daemon.model import ACTIVE
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.home import Home
from daemon.store.runs import update_run
from daemon.store.workspaces import Workspace, get_workspace, mark_removed, set_kept, set_note, set_saved_bytes
from daemon.workspaces.client import WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import CleanedWorkspace, CleanWorkspace, ExamineWorkspace, WorkspaceContents
from daemon.workspaces.pipe import bounded

REMOVED_BY_OTHERS = "it has just been removed by somebody else"


@dataclass(frozen=True)
class Discard:
    """The decision of a person to remove a workspace."""

    by: str
    """Who decided."""
    lost: str | None
    """What is lost; None if its work is saved."""


class WorkspaceRemoval:
    """Removes the workspaces of one daemon."""

    def __init__(self, home: Home, live: LiveConfig, metrics: Metrics) -> None:
        self._home = home
        self._live = live
        self._metrics = metrics
        self._deciding = asyncio.Lock()  # so that no workspace is marked keep while its removal begins
        self._removing: set[int] = set()

    async def release(self, run_id: int) -> str | None:
        """Save and remove the workspace of an expired run, which renews the run; return why it was not removed.

        A workspace that is marked keep stays, as does one with more unsaved work than `salvage_max`.
        """
        workspace = await self._home.database.read(lambda c: get_workspace(c, run_id))
        if workspace is None or workspace.state != "present":
            return None
        policy = policy_of(self._live.config, workspace.environment)
        return await self.remove(workspace, policy.salvage_max, renews=True)

    async def remove(
        self, workspace: Workspace, salvage_max: int | None, *, renews: bool = False, decision: Discard | None = None
    ) -> str | None:
        """Save and remove a workspace in a helper process; return why it was not removed.

        Nothing is saved if a person decided so.
        """
        if not workspace.is_of_schedule:
            return await self._remove(workspace, salvage_max, renews=renews, decision=decision)
        turn = self._home.turn(workspace.environment, workspace.folder)
        if turn.locked():
            return "another run of its schedule is making its workspace there, or somebody else removes it"
        async with turn:
            return await self._remove(workspace, salvage_max, renews=renews, decision=decision)

    async def _remove(
        self, workspace: Workspace, salvage_max: int | None, *, renews: bool, decision: Discard | None
    ) -> str | None:
        async with self._deciding:
            current = await self._home.database.read(lambda c: get_workspace(c, workspace.run_id))
            if current is None or current.status in ACTIVE:
                return "its run is active"
            if current.state != "present":  # a second removal would find nothing, and hide what the first one saved
                return REMOVED_BY_OTHERS
            if current.kept:
                return "it has been marked keep"
            if (current.environment, current.folder) != (workspace.environment, workspace.folder):
                return "it has just been moved"  # another run may work where it was
            if workspace.run_id in self._removing:
                return "it is already being removed"
            self._removing.add(workspace.run_id)
        try:
            saves = decision is None or decision.lost is None
            done = await self._clean(current, salvage_max, saves=saves)
            record = partial(self._record, workspace.run_id, done, renews=renews, decision=decision)
            if done.gone or done.in_trash:
                await self._home.database.write_patiently(record)
            else:  # the next sweep finds it again, and the disk may be too full to record the failure
                await self._home.database.write_if_possible(record)
        finally:
            self._removing.discard(workspace.run_id)
        self._metrics.cleaned("removed" if done.gone else "failed")
        return None if done.gone else str(done.reason)

    async def _clean(self, workspace: Workspace, salvage_max: int | None, *, saves: bool) -> CleanedWorkspace:
        place, most = (workspace.environment, workspace.run_id, workspace.base), bounded(salvage_max)
        job = CleanWorkspace(*place, most, saves=saves, folder=workspace.folder)
        try:
            async with workspace_helper(self._home.state_dir) as helper:
                return await helper.clean_workspace(job)
        except (WorkspaceHelperError, OSError) as error:
            return CleanedWorkspace(gone=False, reason=str(error))

    def _record(
        self, run_id: int, done: CleanedWorkspace, tx: Transaction, *, renews: bool, decision: Discard | None
    ) -> None:
        now, saved = self._home.now(), asdict(done.saved) if done.saved else None
        if done.saved is not None and done.saved.folder is not None:
            set_saved_bytes(tx, {run_id: done.saved.stored})
        if done.gone or done.in_trash:
            mark_removed(tx, run_id, now)
            if renews or (saved and saved["folder"]):
                update_run(tx, run_id, now)  # the saved work is kept as long as the run
            left: dict[str, object] = {"left_in_trash": done.reason} if done.in_trash else {}
            if decision is not None:
                left |= {"by": decision.by} | ({} if decision.lost is None else {"lost": decision.lost})
            add_event(tx, run_id, now, "workspace_cleaned", {"saved": saved, **left})
        elif set_note(tx, run_id, str(done.reason)):
            add_event(tx, run_id, now, "workspace_not_cleaned", {"reason": done.reason, "saved": saved})

    async def discard(self, run_id: int, decision: Discard) -> str | None:
        """Save and remove the workspace of a run, regardless of the policy; return why it was not removed.

        Raise NotFoundError if there is none, RefusedError if the run is active or the workspace is marked keep.
        """
        return await self.remove(await self.discardable(run_id), None, decision=decision)

    async def loss(self, run_id: int) -> WorkspaceContents:
        """Return what `discard` without saving would delete; raise NotFoundError, RefusedError or OSError."""
        workspace = await self.discardable(run_id)
        async with workspace_helper(self._home.state_dir) as helper:
            job = ExamineWorkspace(workspace.environment, run_id, workspace.base, workspace.folder)
            return await helper.examine_workspace(job)

    async def discardable(self, run_id: int) -> Workspace:
        """Return the workspace of a run that `discard` may remove; raise NotFoundError or RefusedError."""
        workspace = await self._home.database.read(lambda c: get_workspace(c, run_id))
        if workspace is None or workspace.state != "present":
            raise NotFoundError(f"run {run_id} has no workspace")
        if workspace.status in ACTIVE:
            raise RefusedError(f"run {run_id} is {workspace.status}; its workspace is in use")
        if workspace.kept:
            raise RefusedError(f"the workspace of run {run_id} is marked keep; unkeep it first")
        return workspace

    async def keep(self, run_id: int, by: str, *, kept: bool) -> Workspace:
        """Mark a workspace keep, so that it is never removed, or unmark it; raise NotFoundError or RefusedError."""

        def mark(tx: Transaction) -> Workspace:
            workspace = get_workspace(tx, run_id)
            if workspace is None or workspace.state != "present":
                raise NotFoundError(f"run {run_id} has no workspace")
            if kept and workspace.is_of_schedule:
                raise RefusedError(
                    f"the workspace of run {run_id} is in the place that its schedule keeps for its runs, and the next "
                    "one makes it anew; copy what you need, or discard it, which saves its work"
                )
            if workspace.kept is not kept:
                set_kept(tx, run_id, kept=kept)
                add_event(tx, run_id, self._home.now(), "workspace_kept" if kept else "workspace_unkept", {"by": by})
            return get_workspace(tx, run_id) or workspace

        async with self._deciding:
            if run_id in self._removing:
                raise RefusedError(f"the workspace of run {run_id} is already being removed")
            return await self._home.database.write(mark)
