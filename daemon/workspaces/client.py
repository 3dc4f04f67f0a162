"""Calling a porter, the helper process that works on workspaces, from the daemon's loop."""

import asyncio
import contextlib
import json
import os
import signal
import sys
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

START = "import sys; sys.path.insert(0, sys.argv[1]); from daemon.workspaces.helper import main; main()"
PACKAGE = str(Path(__file__).parents[2])
_LONGEST_LINE = 64 * 1024**2


class PorterError(Exception):
    """A job failed; the text says why."""


class Porter:
    """One helper process."""

    def __init__(self, process: asyncio.subprocess.Process, state_dir: Path, say: Callable[[str], None]) -> None:
        """Serve as the way to a process; `say` hears what it has to tell meanwhile."""
        self._process = process
        self._state_dir = state_dir
        self._say = say

    async def do(self, what: str, **facts: object) -> dict[str, Any]:
        """Have a job done and return its result; raise PorterError."""
        stdin, stdout = self._process.stdin, self._process.stdout
        if stdin is None or stdout is None:
            raise PorterError("the helper process has no pipes")
        job = {"do": what, "state_dir": str(self._state_dir), **facts}
        with contextlib.suppress(ConnectionError):
            stdin.write(json.dumps(job).encode() + b"\n")
            await stdin.drain()
        while line := await stdout.readline():
            message = json.loads(line)
            if "say" in message:
                self._say(message["say"])
            elif "failed" in message:
                raise PorterError(message["failed"])
            else:
                result: dict[str, Any] = message["done"]
                return result
        raise PorterError("the helper process was ended")

    def kill(self) -> None:
        """End the process at once, and the git processes that it started with it."""
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)


@contextlib.asynccontextmanager
async def porter(state_dir: Path, say: Callable[[str], None]) -> AsyncIterator[Porter]:
    """Start a helper process for some jobs, and end it after them; raise OSError if there can be none."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-I",
        "-c",
        START,
        PACKAGE,
        str(os.getpid()),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        start_new_session=True,
        limit=_LONGEST_LINE,
    )
    helper = Porter(process, state_dir, say)
    try:
        yield helper
    except BaseException:
        helper.kill()
        raise
    finally:
        if process.stdin is not None:
            process.stdin.close()
        await process.wait()
