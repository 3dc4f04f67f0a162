"""One delivery to a target: a POST request, or a command that gets the event on its standard input."""

import asyncio
import os
import tempfile
import uuid
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import BinaryIO

import aiohttp

from daemon.agents.process.spec import base_environment
from daemon.agents.process.supervisor import tree
from daemon.agents.process.supervisor.mask import Secrets
from daemon.agents.process.supervisor.start import reason_of
from daemon.http_client import CallError, HttpCall, calling, secrets_of_url

_TO_HEADERS = 10.0  # seconds until the response headers must arrive
_COMMAND_TIME = 30.0  # seconds
_LEFT_TIME = 5.0  # seconds that what a command leaves has to end, and again once it is killed
_MARKER = "AGENTCRON_NOTIFICATION"
_LARGEST_ERROR = 2048  # bytes of a failed command's standard error that are read
_LONGEST_REASON = 300  # characters


class NotSentError(Exception):
    """A target did not accept an event; the text says why, in brief and without the target's URL."""

    def __init__(self, text: str, *, may_pass: bool = True, wait: timedelta | None = None) -> None:
        super().__init__(text)
        self.may_pass = may_pass
        """Whether another attempt may succeed."""
        self.wait = wait
        """How long the target asked to wait before it."""


async def post(session: aiohttp.ClientSession, call: HttpCall) -> None:
    """Make a call, of which only the status matters; raise NotSentError if it fails."""
    try:
        async with calling(session, replace(call, to_headers=_TO_HEADERS)):
            return
    except CallError as error:
        raise NotSentError(brief(str(error), [call.url]), may_pass=error.may_pass, wait=error.wait) from None


async def run_command(argv: list[str], text: bytes) -> None:
    """Run a command with a text on its standard input; raise NotSentError unless it succeeds."""
    status, output = await ended(argv, text, repr(argv[0]))
    if status != 0:
        output = brief(output, [argument for argument in argv if "://" in argument])
        raise NotSentError(f"{argv[0]!r} ended with status {status}" + (f": {output}" if output else ""))


async def ended(argv: list[str], text: bytes, name: str) -> tuple[int, str]:
    """Run a command with a text on its standard input; return its exit status and what it said on standard error.

    The text is a file in memory, so that it is of no consequence whether the command reads it. What the command
    leaves, in whatever session, is found by a marker in its environment, and has a few seconds to end. Raise
    NotSentError, with the `name` of the command, if it cannot be started or takes too long.
    """
    marker = str(uuid.uuid4())
    with tempfile.TemporaryFile() as errors, _in_memory(text) as source:
        try:
            process = await asyncio.create_subprocess_exec(
                *argv,
                stdin=source,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=errors,
                env={**base_environment(), _MARKER: marker},
                start_new_session=True,
            )
        except OSError as error:
            raise NotSentError(f"cannot start {name}: {reason_of(error)}") from None
        try:
            async with asyncio.timeout(_COMMAND_TIME):
                status = await process.wait()
        except TimeoutError:
            raise NotSentError(f"{name} did not end within {_COMMAND_TIME:.0f} s") from None
        finally:
            running = process.pid if process.returncode is None else None
            await asyncio.to_thread(_end_tree, f"{_MARKER}={marker}".encode(), running)
        return status, " ".join(os.pread(errors.fileno(), _LARGEST_ERROR, 0).decode(errors="replace").split())


def _in_memory(text: bytes) -> BinaryIO:
    """Return an open file in memory that holds a text, at its beginning."""
    source = open(os.memfd_create("agentcron-notification"), "w+b")  # noqa: PTH123, SIM115 - a descriptor
    source.write(text)
    source.seek(0)
    return source


def brief(text: str, urls: Iterable[str], parts: Iterable[str] = ()) -> str:
    """Return the beginning of what a target says, with URLs and further parts of them masked."""
    return secrets_in(urls, parts).brief(text, _LONGEST_REASON)


def secrets_in(urls: Iterable[str], parts: Iterable[str] = ()) -> Secrets:
    """Return what is masked of URLs, and of further parts of them: that of a webhook is as good as a password."""
    return Secrets([*parts, *(part for url in urls for part in secrets_of_url(url))])


def _end_tree(mark: bytes, running: int | None) -> None:
    """Kill everything that bears a mark: at once with the command that is still running, else after some seconds."""

    def left() -> list[tree.Process]:
        own = [] if running is None else [*tree.alive([running]), *tree.descendants(running)]
        return [*own, *tree.marked(mark)]

    if running is not None or not tree.wait_for_end(left(), _LEFT_TIME):
        tree.wait_for_end(tree.kill(left), _LEFT_TIME)  # on a busy host even a killed process takes a moment to end
