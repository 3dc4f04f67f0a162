"""Make the workspace of a run in a git environment, which may take minutes and can be cancelled."""

import asyncio
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

import structlog

from daemon.runs.folder import RunPreparationError
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.workspaces import add_workspace, set_saved_bytes
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import Author, PreparedWorkspace, PrepareWorkspace, Source
from daemon.workspaces.pipe import bounded

_LOG = structlog.get_logger()


class WorkspacePreparation:
    """The preparation of one workspace; while it lasts, it stands where the run's agent will stand."""

    def __init__(self, state_dir: Path, run_id: int, umask: int) -> None:
        self._state_dir = state_dir
        self._run_id = run_id
        self._umask = umask
        self._helper: WorkspaceHelper | None = None
        self.stopped = False

    def stop(self, *, at_once: bool) -> None:  # noqa: ARG002 - git is always ended the same way
        """Cancel the preparation."""
        self.stopped = True
        if self._helper is not None:
            self._helper.kill()

    def note_cancellation(self, told: str) -> None:
        """Record nothing: an incomplete workspace is never used."""

    async def make(self, source: Source, author: Author, seconds: float, salvage_max: int | None) -> PreparedWorkspace:
        """Make the workspace within some seconds; raise RunPreparationError.

        What an earlier attempt left is saved and removed first, if it has at most `salvage_max` bytes of unsaved work.
        """
        try:
            async with asyncio.timeout(seconds), workspace_helper(self._state_dir, self._log) as helper:
                self._helper = helper
                if self.stopped:
                    helper.kill()
                return await helper.prepare_workspace(
                    PrepareWorkspace(
                        source,
                        author,
                        self._run_id,
                        umask=self._umask,
                        timeout=seconds,
                        fetches=False,
                        salvage_max=bounded(salvage_max),
                    )
                )
        except TimeoutError:
            raise RunPreparationError(f"timeout: the workspace was not ready within {seconds:.0f} s") from None
        except (WorkspaceHelperError, OSError) as error:
            raise RunPreparationError(f"environment {source.environment}: {error}") from None

    def _log(self, text: str) -> None:
        _LOG.warning("[run] Preparing the workspace", run_id=self._run_id, message=text)


def record_prepared(tx: Transaction, run_id: int, environment: str, prepared: PreparedWorkspace, now: datetime) -> None:
    """Record the workspace of a run, with what was saved of one that an earlier attempt left."""
    add_workspace(tx, run_id, environment, prepared.path, now, prepared.base)
    if prepared.earlier is not None and prepared.earlier.folder is not None:
        set_saved_bytes(tx, {run_id: prepared.earlier.stored})
        add_event(tx, run_id, now, "workspace_cleaned", {"saved": asdict(prepared.earlier)})
    add_event(tx, run_id, now, "workspace_prepared", {"environment": environment, "base": prepared.base})
