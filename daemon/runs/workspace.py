"""Make the workspace of a run in a git environment, which may take minutes and can be cancelled."""

import asyncio
from pathlib import Path

import structlog

from daemon.runs.folder import RunPreparationError
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import Author, PrepareWorkspace, Source

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

    async def make(self, source: Source, author: Author, seconds: float) -> tuple[Path, str]:
        """Return the workspace and the commit that it starts from; raise RunPreparationError."""
        try:
            async with asyncio.timeout(seconds), workspace_helper(self._state_dir, self._log) as helper:
                self._helper = helper
                if self.stopped:
                    helper.kill()
                prepared = await helper.prepare_workspace(
                    PrepareWorkspace(source, author, self._run_id, umask=self._umask, timeout=seconds, fetches=False)
                )
        except TimeoutError:
            raise RunPreparationError(f"timeout: the workspace was not ready within {seconds:.0f} s") from None
        except (WorkspaceHelperError, OSError) as error:
            raise RunPreparationError(f"environment {source.environment}: {error}") from None
        return prepared.path, prepared.base

    def _log(self, text: str) -> None:
        _LOG.warning("[run] Preparing the workspace", run_id=self._run_id, message=text)
