"""The making of a run's workspace in a git environment, which may take a while and can be stopped."""

import asyncio
import re
from dataclasses import asdict
from pathlib import Path

import structlog

from daemon.config.schema import Config, Environment
from daemon.runs.folder import RunPreparationError
from daemon.workspaces.client import Porter, PorterError, porter
from daemon.workspaces.mirror import Source

_LOG = structlog.get_logger()
_REMOTE = re.compile(r"[^/]+:")  # scheme://..., or host:path as ssh has it (git-fetch(1), GIT URLS)


class WorkspacePreparation:
    """One workspace in the making."""

    def __init__(self, state_dir: Path, run_id: int, umask: int) -> None:
        self._state_dir = state_dir
        self._run_id = run_id
        self._umask = umask
        self._porter: Porter | None = None
        self.stopped = False

    def stop(self, *, at_once: bool) -> None:  # noqa: ARG002 - there is nobody to be gentle to
        """Give it up."""
        self.stopped = True
        if self._porter is not None:
            self._porter.kill()

    def note_cancellation(self, told: str) -> None:
        """Leave no word: what is not complete is nobody's workspace."""

    async def make(self, source: Source, seconds: float) -> tuple[Path, str]:
        """Return the workspace and the commit that it begins at; raise PreparationError."""
        try:
            async with asyncio.timeout(seconds), porter(self._state_dir, self._tell) as helper:
                self._porter = helper
                if self.stopped:
                    helper.kill()
                made = await helper.do(
                    "prepare", source=asdict(source), run_id=self._run_id, umask=self._umask, timeout=seconds
                )
        except TimeoutError:
            raise RunPreparationError(f"timeout: its workspace was not ready within {seconds:.0f} s") from None
        except (PorterError, OSError) as error:
            raise RunPreparationError(f"environment {source.environment}: {error}") from None
        return Path(made["path"]), made["base"]

    def _tell(self, text: str) -> None:
        _LOG.warning("[run] While its workspace was made", run_id=self._run_id, told=text)


def source_of(config: Config, name: str, environment: Environment) -> Source:
    """Return what the workspaces of a git environment are made from."""
    repository = environment.repository or ""
    if not _REMOTE.match(repository):
        repository = str(config.resolve(Path(repository)))
    return Source(
        environment=name,
        repository=repository,
        ref=environment.ref,
        fetch_every=environment.fetch_every.total_seconds(),
        require_fetch=environment.require_fetch,
    )
