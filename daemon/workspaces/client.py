"""The daemon's side of the helper process that works on workspaces, with one method per job."""

import asyncio
import contextlib
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from types import NoneType
from typing import TypeVar

import structlog

from daemon.log_file import standard_error_of_child
from daemon.workspaces import jobs
from daemon.workspaces.pipe import Failure, Log, MessageError, Success, Waiting, decode, decode_reply, encode_job

T = TypeVar("T")
START = "import sys; sys.path.insert(0, sys.argv[1]); from daemon.workspaces.helper import main; main()"
PACKAGE = str(Path(__file__).parents[2])
_LONGEST_LINE = 64 * 1024**2
_LOG = structlog.get_logger()


class WorkspaceHelperError(Exception):
    """A job failed, or the helper process broke; the text says why."""


class WorkspaceHelper:
    """A running helper process. Every method waits for its job and raises WorkspaceHelperError if that fails."""

    def __init__(
        self, process: asyncio.subprocess.Process, log: Callable[[str], None], on_wait: Callable[[str], None]
    ) -> None:
        """Send jobs to a process; `log` and `on_wait` receive what it logs and waits for meanwhile."""
        self._process = process
        self._log = log
        self._on_wait = on_wait

    async def fetch_mirror(self, job: jobs.FetchMirror) -> jobs.FetchedMirror:
        """Fetch the mirror of an environment, and those of its submodules."""
        return await self._do(job, jobs.FetchedMirror)

    async def maintain_mirrors(self, job: jobs.MaintainMirrors) -> bool:
        """Repack those mirrors of an environment for which that is due; return whether any was repacked."""
        return await self._do(job, bool)

    async def prepare_workspace(self, job: jobs.PrepareWorkspace) -> jobs.PreparedWorkspace:
        """Make the workspace of a run."""
        return await self._do(job, jobs.PreparedWorkspace)

    async def clean_workspace(self, job: jobs.CleanWorkspace) -> jobs.CleanedWorkspace:
        """Save the work of a workspace and remove it."""
        return await self._do(job, jobs.CleanedWorkspace)

    async def examine_workspace(self, job: jobs.ExamineWorkspace) -> jobs.WorkspaceContents:
        """Count what is in a workspace."""
        return await self._do(job, jobs.WorkspaceContents)

    async def find_saved_work(self, job: jobs.FindSavedWork) -> jobs.FoundWork:
        """Find what was last saved from the workspace of a run."""
        return await self._do(job, jobs.FoundWork)

    async def list_workspaces(self) -> jobs.WorkspaceNames:
        """List what the `tasks` folders hold."""
        return await self._do(jobs.ListWorkspaces(), jobs.WorkspaceNames)

    async def quarantine_workspace(self, job: jobs.QuarantineWorkspace) -> jobs.QuarantinedWorkspace:
        """Move an entry that belongs to no run out of a `tasks` folder."""
        return await self._do(job, jobs.QuarantinedWorkspace)

    async def move_workspace(self, job: jobs.MoveWorkspace) -> jobs.MovedWorkspace:
        """Give a workspace the run's number as its name."""
        return await self._do(job, jobs.MovedWorkspace)

    async def measure_workspaces(self, job: jobs.MeasureWorkspaces) -> jobs.DiskUsage:
        """Measure workspaces."""
        return await self._do(job, jobs.DiskUsage)

    async def measure_saved_work(self, job: jobs.MeasureSavedWork) -> jobs.DiskUsage:
        """Measure the work that was saved from workspaces."""
        return await self._do(job, jobs.DiskUsage)

    async def measure_run_folders(self, job: jobs.MeasureRunFolders) -> jobs.DiskUsage:
        """Measure the folders of runs."""
        return await self._do(job, jobs.DiskUsage)

    async def delete_leftovers(self) -> None:
        """Empty the trash, and delete the temporary folders of helper processes that were killed."""
        await self._do(jobs.DeleteLeftovers(), NoneType)

    async def remove_orphans(self, job: jobs.RemoveOrphans) -> jobs.RemovedFolders:
        """Remove the folders of runs that have no row."""
        return await self._do(job, jobs.RemovedFolders)

    async def _do(self, job: jobs.Job, kind: type[T]) -> T:
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise WorkspaceHelperError("the helper process has no pipes")
        with contextlib.suppress(ConnectionError):
            stdin.write(encode_job(job))
            await stdin.drain()
        try:
            while line := await stdout.readline():
                match decode_reply(line):
                    case Log(text):
                        self._log(text)
                    case Waiting(what):
                        self._on_wait(what)
                    case Failure(reason):
                        raise WorkspaceHelperError(reason)
                    case Success(result):
                        return decode(kind, result)
        except (MessageError, ValueError) as error:  # ValueError: a line longer than the limit
            raise WorkspaceHelperError(f"invalid reply from the helper process: {error}") from None
        raise WorkspaceHelperError("the helper process ended before its job was done")

    def kill(self) -> None:
        """End the process at once, and with it the git processes that it started."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)


def log_helper_message(text: str) -> None:
    """Log a message of the helper process in its own words: a warning if it reports an error or a refusal."""
    if re.match(r"\[[a-z]+\] (ERROR|Refusing)", text):
        _LOG.warning(text)
    else:
        _LOG.info(text)


@contextlib.asynccontextmanager
async def workspace_helper(
    state_dir: Path, log: Callable[[str], None] = log_helper_message, on_wait: Callable[[str], None] = lambda _: None
) -> AsyncIterator[WorkspaceHelper]:
    """Start a helper process, and end it when the block ends; raise OSError if it cannot be started."""
    with standard_error_of_child() as errors:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            "-I",
            "-c",
            START,
            PACKAGE,
            state_dir,
            str(os.getpid()),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            start_new_session=True,
            limit=_LONGEST_LINE,
        )
    helper = WorkspaceHelper(process, log, on_wait)
    try:
        yield helper
    except BaseException:
        helper.kill()
        raise
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
        if process.stdin is not None:
            with contextlib.suppress(ConnectionError):  # of a job that a killed helper did not read
                await process.stdin.wait_closed()
