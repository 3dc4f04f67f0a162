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
from daemon.store.workspaces import add_workspace, get_workspace, mark_removed, set_saved_bytes
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError, log_helper_message, workspace_helper
from daemon.workspaces.jobs import Author, CleanedWorkspace, CleanWorkspace, PreparedWorkspace, PrepareWorkspace, Source
from daemon.workspaces.layout import workspace_path
from daemon.workspaces.pipe import bounded

_LOG = structlog.get_logger()


class WorkspacePreparation:
    """The preparation of one workspace; while it lasts, it stands where the run's agent will stand."""

    def __init__(self, state_dir: Path, run_id: int, umask: int, on_wait: Callable[[str], None]) -> None:
        """Prepare the workspace of a run; `on_wait` is told what it waits for at remotes."""
        self._state_dir = state_dir
        self._run_id = run_id
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
        self, environment: str, seconds: float, salvage_max: int | None
    ) -> CleanedWorkspace | None:
        """Save and remove, within some seconds, what an earlier attempt left; return None if that is nothing.

        Raise RunPreparationError if it cannot be removed, or has more than `salvage_max` bytes of unsaved work.
        """
        if not await asyncio.to_thread(os.path.lexists, workspace_path(self._state_dir, environment, self._run_id)):
            return None
        async with self._helping(environment, seconds, log_helper_message) as helper:
            left = await helper.clean_workspace(
                CleanWorkspace(environment, self._run_id, base=None, salvage_max=bounded(salvage_max), saves=True)
            )
        if not left.gone and not left.in_trash:
            reason = f"the workspace of an earlier attempt cannot be removed: {left.reason}"
            raise RunPreparationError(f"environment {environment}: {reason}")
        return left

    async def make(self, source: Source, author: Author, seconds: float) -> PreparedWorkspace:
        """Make the workspace within some seconds; raise RunPreparationError."""
        async with self._helping(source.environment, seconds, self._log) as helper:
            return await helper.prepare_workspace(
                PrepareWorkspace(source, author, self._run_id, umask=self._umask, timeout=seconds, fetches=False)
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
    """Record what was saved of the workspace that an earlier attempt at a run left; there may be no row of it."""
    if get_workspace(tx, run_id) is None:
        add_workspace(tx, run_id, environment, path, now)
    mark_removed(tx, run_id, now)
    saved = removed.saved
    if saved is not None and saved.folder is not None:
        set_saved_bytes(tx, {run_id: saved.stored})
    left = {"left_in_trash": removed.reason} if removed.in_trash else {}
    add_event(tx, run_id, now, "workspace_cleaned", {"saved": asdict(saved) if saved else None, **left})


def record_prepared(tx: Transaction, run_id: int, environment: str, prepared: PreparedWorkspace, now: datetime) -> None:
    """Record the workspace of a run."""
    add_workspace(tx, run_id, environment, prepared.path, now, prepared.base)
    add_event(tx, run_id, now, "workspace_prepared", {"environment": environment, "base": prepared.base})
