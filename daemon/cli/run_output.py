"""The output of a run on its way to standard output, up to the end of the run where that is wanted."""

import codecs
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from daemon.agents.process.supervisor import tree
from daemon.agents.process.supervisor.files import open_in
from daemon.cli.client import Client
from daemon.cli.offline import may_read, reading, run_numbered
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import DaemonUnreachableError, RefusedError
from daemon.model import ACTIVE
from daemon.runs.folder import run_folder
from daemon.store.lock import running_daemon
from daemon.store.runs import Run, get_run
from daemon.text import escape
from daemon.views.documents import run_view

_CHUNK = 1024 * 1024
_PAUSE = 0.2  # seconds between two looks at a growing file
_RESTART = 5.0  # seconds that a daemon gets to come back
_LONE_RETURN = re.compile(r"\r(?!\n)")
_COLOUR = re.compile(r"(\x1b\[[0-9;]*m)")
_LAYOUT = re.compile(r"(\r\n|\n|\t)")
_UNFINISHED = re.compile(r"(?:\r|\x1b(?:\[[0-9;]{0,32})?)\Z")  # what the next chunk may go on with
_RESET = b"\x1b[0m"


def output_of(config: Config, run: int, *, follow: bool) -> tuple[Iterator[bytes], Callable[[], dict[str, Any]]]:
    """Return a run's output as it comes, and what tells of the run afterwards."""
    if not may_read(config):
        client = Client(config)
        query = "?follow=true" if follow else ""
        return client.stream(f"/runs/{run}/output{query}"), lambda: client.get(f"/runs/{run}")

    def details() -> dict[str, Any]:
        with reading(config) as connection:
            return run_view(run_numbered(connection, run))

    details()
    return _copied(config, run, follow=follow), details


def _copied(config: Config, run: int, *, follow: bool) -> Iterator[bytes]:
    at, folder, last_cared_for = 0, run_folder(state_dir(config), run), time.monotonic()
    while True:
        with reading(config) as connection:
            found = get_run(connection, run)  # before reading, so that the last bytes are not missed
        active = follow and found is not None and found.status in ACTIVE
        if running_daemon(state_dir(config)) is not None or _is_supervised(found):
            last_cared_for = time.monotonic()
        for chunk in _chunks(folder, at):
            at += len(chunk)
            yield chunk
        if not active:
            return
        if time.monotonic() - last_cared_for > _RESTART:
            raise DaemonUnreachableError(f"no daemon runs, so the end of run {run} is not recorded; start one")
        time.sleep(_PAUSE)


def _is_supervised(run: Run | None) -> bool:
    return run is not None and run.pid is not None and tree.start_of(run.pid) == run.pid_started


def _chunks(folder: Path, start: int) -> Iterator[bytes]:
    """Yield the output from a place on; raise RefusedError if an agent put something else in its stead."""
    try:
        descriptor = open_in(str(folder), "output.log")
    except FileNotFoundError:
        return
    except OSError as error:
        raise RefusedError(f"{folder / 'output.log'} is not the output any more: {error.strerror}") from None
    with open(descriptor, "rb") as stream:  # noqa: PTH123 - a descriptor
        stream.seek(start)
        while chunk := stream.read(_CHUNK):
            yield chunk


def show(chunks: Iterable[bytes]) -> None:
    """Write bytes as they come; on a terminal, nothing but colours that could move its cursor or mislead its reader."""
    if not sys.stdout.isatty():
        for chunk in chunks:
            _write(chunk)
        return
    decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace")  # a character may come in two parts
    held = ""
    try:
        for chunk in chunks:
            text = held + decoder.decode(chunk)
            unfinished = _UNFINISHED.search(text)
            held = unfinished[0] if unfinished else ""
            _write(_harmless(text.removesuffix(held)).encode())
        _write(_harmless(held + decoder.decode(b"", final=True)).encode())
    finally:
        _write(_RESET)  # what is written next is not to be hidden


def _write(data: bytes) -> None:
    sys.stdout.buffer.write(data)
    sys.stdout.buffer.flush()


def _harmless(text: str) -> str:
    """Escape what is not printable, but for colours; what would be written over is shown on a line of its own."""
    parts = _COLOUR.split(_LONE_RETURN.sub("\n", text))
    return "".join(part if n % 2 else _escaped(part) for n, part in enumerate(parts))


def _escaped(text: str) -> str:
    return "".join(part if n % 2 else escape(part) for n, part in enumerate(_LAYOUT.split(text)))
