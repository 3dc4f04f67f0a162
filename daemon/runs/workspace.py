"""Make the workspace of a run in a git environment, which may take minutes and can be cancelled."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import structlog

from daemon.runs.folder import RunPreparationError
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.runs import update_run
from daemon.store.workspaces import Workspace, add_workspace, get_workspace, is_at, mark_removed, set_saved_bytes
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError, log_helper_message, workspace_helper
from daemon.workspaces.jobs import (
    Author,
    CleanedWorkspace,
    CleanWorkspace,
    FindSavedWork,
    MoveWorkspace,
    PreparedWorkspace,
    PrepareWorkspace,
    QuarantineWorkspace,
    Source,
)
from daemon.workspaces.layout import workspace_path
from daemon.workspaces.pipe import bounded

_LOG = structlog.get_logger()


class WorkspacePreparation:
    """The preparation of one workspace; while it lasts, it stands where the run's agent will stand."""

    def __init__(
        self, state_dir: Path, run_id: int, umask: int, on_wait: Callable[[str], None], folder: str | None = None
    ) -> None:
        """Prepare the workspace of a run, in `folder` if given; `on_wait` is told what it waits for at remotes."""
        self._state_dir = state_dir
        self._run_id = run_id
        self._folder = folder or str(run_id)
        self._umask = umask
        self._on_wait = on_wait
        self._helper: WorkspaceHelper | None = None
        self.stopped = False

    def stop(self, *, at_once: bool) -> None:  # noqa: ARG002 - git is always ended the same way
        """Cancel the preparation."""
        self.stopped = True
        if self._helper is not None:
            self._helper.kill()

    def note_cancellation(self, told: str) -> None:
        """Record nothing: an incomplete workspace is never used."""

    async def remove_earlier(
        self, environment: str, seconds: float, salvage_max: int | None, owner: Workspace | None = None
    ) -> CleanedWorkspace | None:
        """Save and remove, within some seconds, what is in its place; return None if that is nothing.

        `owner` is the workspace that is recorded there; None: of an earlier attempt at the run. One with more than
        `salvage_max` bytes of unsaved work, or that cannot be removed, stays. Raise RunPreparationError, also if one
        stays in the run's own place.
        """
        path = workspace_path(self._state_dir, environment, self._folder)
        is_there = await asyncio.to_thread(os.path.lexists, path)
        if not is_there and owner is None:
            return None
        run_id, base = (self._run_id, None) if owner is None else (owner.run_id, owner.base)
        job = CleanWorkspace(environment, run_id, base, bounded(salvage_max), saves=True, folder=self._folder)
        async with self._helping(environment, seconds, log_helper_message) as helper:
            if not is_there:  # it was removed, but that was not recorded
                return CleanedWorkspace(gone=True, saved=(await helper.find_saved_work(FindSavedWork(run_id))).saved)
            left = await helper.clean_workspace(job)
        if not left.gone and not left.in_trash and self._folder == str(self._run_id):
            reason = f"the workspace of an earlier attempt cannot be removed: {left.reason}"
            raise RunPreparationError(f"environment {environment}: {reason}")
        return left

    async def move_away(self, environment: str, seconds: float, run_id: int) -> Path:
        """Free its place of the workspace of a run that cannot be removed; return where that is now.

        What may be of no other run goes where workspaces of unknown runs are. Raise RunPreparationError.
        """
        async with self._helping(environment, seconds, log_helper_message) as helper:
            if run_id == self._run_id:
                return (await helper.quarantine_workspace(QuarantineWorkspace(environment, self._folder))).path
            return (await helper.move_workspace(MoveWorkspace(environment, self._folder, run_id))).path

    async def make(self, source: Source, author: Author, seconds: float) -> PreparedWorkspace:
        """Make the workspace within some seconds; raise RunPreparationError."""
        async with self._helping(source.environment, seconds, self._log) as helper:
            return await helper.prepare_workspace(
                PrepareWorkspace(source, author, self._run_id, self._umask, seconds, fetches=False, folder=self._folder)
            )

    @contextlib.asynccontextmanager
    async def _helping(
        self, environment: str, seconds: float, log: Callable[[str], None]
    ) -> AsyncIterator[WorkspaceHelper]:
        """Yield a helper for some seconds, which `stop` ends; raise RunPreparationError."""
        try:
            async with asyncio.timeout(seconds), workspace_helper(self._state_dir, log, self._on_wait) as helper:
                self._helper = helper
                if self.stopped:
                    helper.kill()
                yield helper
        except TimeoutError:
            raise RunPreparationError(f"timeout: the workspace was not ready within {seconds:.0f} s") from None
        except (WorkspaceHelperError, OSError) as error:
            raise RunPreparationError(f"environment {environment}: {error}") from None

    def _log(self, text: str) -> None:
        _LOG.warning("[run] Preparing the workspace", run_id=self._run_id, message=text)


def record_removed(
    tx: Transaction, run_id: int, environment: str, path: Path, removed: CleanedWorkspace, now: datetime
) -> None:
    """Record what was saved of a workspace that made room for another; that of an earlier attempt may have no row.

    Its run may have got another workspace since, which stays.
    """
    if get_workspace(tx, run_id) is None:
        add_workspace(tx, run_id, environment, path, now)
    if is_at(tx, run_id, environment, path.name):
        mark_removed(tx, run_id, now)
    saved = removed.saved
    if saved is not None and saved.folder is not None:
        set_saved_bytes(tx, {run_id: saved.stored})
        update_run(tx, run_id, now)  # the saved work is kept as long as the run
    left = {"left_in_trash": removed.reason} if removed.in_trash else {}
    add_event(tx, run_id, now, "workspace_cleaned", {"saved": asdict(saved) if saved else None, **left})


def record_prepared(tx: Transaction, run_id: int, environment: str, prepared: PreparedWorkspace, now: datetime) -> None:
    """Record the workspace of a run."""
    add_workspace(tx, run_id, environment, prepared.path, now, prepared.base)
    add_event(tx, run_id, now, "workspace_prepared", {"environment": environment, "base": prepared.base})
