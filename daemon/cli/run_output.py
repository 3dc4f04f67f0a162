"""Copy the output of a run to standard output, and follow it to the end of the run if asked."""

import codecs
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from itertools import chain
from pathlib import Path
from typing import Any

from daemon.agents.process.supervisor import tree
from daemon.agents.process.supervisor.files import open_in
from daemon.cli.client import Client
from daemon.cli.offline import may_read, reading, run_numbered
from daemon.cli.transcript import Transcript
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError, RefusedError
from daemon.model import ACTIVE
from daemon.runs.folder import run_folder
from daemon.runs.settings import largest_output, settings_of
from daemon.store.lock import running_daemon
from daemon.store.runs import Run, get_run
from daemon.text import escape
from daemon.views.runs import run_view

_CHUNK = 64 * 1024
_POLL_INTERVAL = 0.2  # seconds, for a growing file
_RESTART_TIMEOUT = 5.0  # seconds, for a daemon to come back
_LONE_RETURN = re.compile(r"\r(?!\n)")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_LAYOUT = re.compile(r"(\r\n|\n|\t)")
_UNFINISHED = re.compile(r"(?:\r|\x1b(?:\[[0-9;]{0,32})?)\Z")  # may continue in the next chunk
_RESET = b"\x1b[0m"


def output_of(config: Config, run: int, *, follow: bool) -> tuple[Iterator[bytes], Callable[[], dict[str, Any]]]:
    """Return the output of a run as it arrives, and a function that returns the run afterwards."""
    if not may_read(config):
        client = Client(config)
        query = "?follow=true" if follow else ""
        return client.stream(f"/runs/{run}/output{query}"), lambda: client.get(f"/runs/{run}")

    def details() -> dict[str, Any]:
        with reading(config) as connection:
            found = run_numbered(connection, run)
            return {**run_view(found), "result_format": settings_of(found).result_format}

    details()
    return _copy(config, run, follow=follow), details


def _copy(config: Config, run: int, *, follow: bool) -> Iterator[bytes]:
    offset, folder, last_owned = 0, run_folder(state_dir(config), run), time.monotonic()
    while True:
        with reading(config) as connection:
            found = get_run(connection, run)  # read before the output, so that no last bytes are missed
            largest = largest_output(found) if found is not None else offset
        active = follow and found is not None and found.status in ACTIVE
        if running_daemon(state_dir(config)) is not None or _is_supervised(found):
            last_owned = time.monotonic()
        for chunk in _chunks(folder, offset, largest):
            offset += len(chunk)
            yield chunk
        if not active:
            return
        if time.monotonic() - last_owned > _RESTART_TIMEOUT:
            raise DaemonUnreachableError(f"no daemon runs, so the end of run {run} is not recorded; start the daemon")
        time.sleep(_POLL_INTERVAL)


def _is_supervised(run: Run | None) -> bool:
    return run is not None and run.pid is not None and tree.start_of(run.pid) == run.pid_started


def _chunks(folder: Path, start: int, largest: int) -> Iterator[bytes]:
    """Yield the output from an offset on; raise RefusedError if an agent replaced the file, or made it too large."""
    try:
        descriptor = open_in(str(folder), "output.log")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RefusedError(f"{folder / 'output.log'} is no longer the output file: {error.strerror}") from None
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor
        stream.seek(start)
        while chunk := stream.read(min(_CHUNK, largest - start)):
            start += len(chunk)
            yield chunk
        if stream.read(1):
            raise RefusedError(f"{folder / 'output.log'} has more than the {largest} bytes that agentcron writes")


def show_for_people(chunks: Iterator[bytes], details: Callable[[], dict[str, Any]]) -> None:
    """Write the transcript of a run whose format is known, and the output of any other; both as they arrive.

    The format is asked for when there is output, which is when a pending run has got its settings.
    """
    first = next(chunks, None)
    if first is None:
        return
    every = chain([first], chunks)
    result_format = details().get("result_format", "none")  # the daemon of an earlier version does not say
    try:
        transcript = None if result_format == "none" else Transcript(result_format)
    except LookupError:  # one of a later version
        transcript = None
    if transcript is None:
        show(every)
        return
    for chunk in every:
        _write_all(transcript.feed(chunk))
    _write_all(transcript.finish())


def _write_all(texts: Iterable[str]) -> None:
    for text in texts:
        sys.stdout.buffer.write(text.encode(errors="replace"))
    sys.stdout.buffer.flush()


def show(chunks: Iterable[bytes]) -> None:
    """Write bytes as they arrive; on a terminal, escape all control sequences except colours, and end the last line."""
    if not sys.stdout.isatty():
        for chunk in chunks:
            _write(chunk)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")  # a chunk may end within a character
    held, last = "", b"\n"
    try:
        for chunk in chunks:
            last = chunk[-1:] or last
            text = held + decoder.decode(chunk)
            unfinished = _UNFINISHED.search(text)
            held = unfinished[0] if unfinished else ""
            _write(_harmless(text.removesuffix(held)).encode())
        _write(_harmless(held + decoder.decode(b"", final=True)).encode())
    finally:
        _write(_RESET)  # so that no colour of the output applies to what follows
        if last != b"\n":
            _write(b"\n")


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _harmless(text: str) -> str:
    """Escape unprintable characters except colours; a lone carriage return becomes a new line."""
    parts = _COLOUR.split(_LONE_RETURN.sub("\n", text))
    return "".join(part if n % 2 else _escaped(part) for n, part in enumerate(parts))


def _escaped(text: str) -> str:
    return "".join(part if n % 2 else escape(part) for n, part in enumerate(_LAYOUT.split(text)))
