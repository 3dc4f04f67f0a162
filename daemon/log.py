"""The log: one event a line through structlog, as JSON or for the console, with nothing unescaped in it.

On its way to the journal a line begins with its level, as sd-daemon(3) has it. A flood of lines of one kind is cut off
and counted.
"""

import contextlib
import logging
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from daemon.systemd import is_journal
from daemon.text import escape
from daemon.units import format_instant, utc_now

_LOG = structlog.get_logger()
_LOOK_EVERY = 1.0  # seconds between two looks whether the file was moved away
_WINDOW = 10.0  # seconds
_MOST_OF_A_KIND = 200  # lines in a window
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)


class LogFile:
    """Where lines go: a file that is opened again when it was moved away, or standard error.

    A line that cannot be written (disk full, closed pipe) is lost; it never ends the daemon.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._looked = time.monotonic()
        self._descriptor = _open(path) if path is not None else 2

    def write(self, text: str) -> None:
        """Write one line."""
        if self._path is not None and time.monotonic() - self._looked > _LOOK_EVERY:
            self._looked = time.monotonic()
            if self._was_moved(self._path):
                self.reopen()
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # there is nowhere left to say so
            while data:
                data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        """Do nothing: every line is on its way when `write` returns."""

    def reopen(self) -> None:
        """Open the file again, for a log that was rotated; keep the old one if that fails."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # a moved folder, a full inode table: better the old file than none
            fresh = _open(self._path)
            os.dup2(fresh, self._descriptor, inheritable=False)  # in one step, for whoever writes in another thread
            os.close(fresh)

    def is_terminal(self) -> bool:
        """Tell whether a person is looking."""
        return os.isatty(self._descriptor)

    def _was_moved(self, path: Path) -> bool:
        try:
            there = path.stat()
        except OSError:
            return True
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
        os.fchmod(descriptor, 0o640)  # whatever the daemon's umask is
    except FileExistsError:
        descriptor = os.open(path, flags)
    return descriptor


class _Forward(logging.Handler):
    """Brings what libraries log through the standard library into the log, one event a line."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info if record.exc_info and record.exc_info[0] else None
        event = f"[daemon] {record.getMessage()}"
        structlog.get_logger().log(record.levelno, event, logger=record.name, exc_info=error)


class Flood:
    """Lets so many lines of a kind through in each window of time, and says how many it left out.

    Of a kind are lines of the same words about the same run, schedule or library: what is told of many runs or
    schedules once each is no flood.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._begun = now()
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, _: object, __: str, event: "_Event") -> "_Event":
        """Pass an event on, as structlog's processors do, or raise DropEvent."""
        self.tell()
        said = event.get("logger") or event["event"]
        kind = (said, event.get("run_id"), event.get("schedule"))
        with self._lock:
            self._seen[kind] += 1
            if self._seen[kind] > _MOST_OF_A_KIND:
                raise structlog.DropEvent
        return event

    def tell(self, *, at_once: bool = False) -> None:
        """Say what was left out in the last window, if it is over or nothing more will come."""
        with self._lock:
            if not at_once and self._now() - self._begun < _WINDOW:
                return
            seen, self._seen, self._begun = self._seen, Counter(), self._now()
        for (said, run, schedule), count in seen.items():
            if count > _MOST_OF_A_KIND:
                about = {name: value for name, value in (("run_id", run), ("schedule", schedule)) if value is not None}
                _LOG.warning("[daemon] Lines left out", lines=count - _MOST_OF_A_KIND, like=said, **about)


@dataclass(frozen=True)
class Log:
    """The log in use."""

    file: LogFile
    flood: Flood


def configure_log(
    level: Literal["debug", "info", "warning", "error"],
    form: Literal["auto", "console", "json"],
    path: Path | None,
) -> Log:
    """Send all log events to a file or standard error; raise OSError if the file cannot be opened."""
    sink = LogFile(path)
    console = form == "console" or (form == "auto" and sink.is_terminal())
    colours = sink.is_terminal() and "NO_COLOR" not in os.environ
    renderers: list[Any] = [_escape_values]
    if console:
        renderers += [structlog.dev.ConsoleRenderer(colors=colours, pad_event_to=32, sort_keys=False)]
    else:
        renderers += [_order_keys, structlog.processors.JSONRenderer(ensure_ascii=False)]
    if path is None and is_journal(2):
        renderers[-1] = _with_priority(renderers[-1])
    flood = Flood()
    structlog.configure(
        processors=[
            flood,
            structlog.processors.add_log_level,
            _add_time,
            structlog.processors.format_exc_info,
            *renderers,
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=structlog.WriteLoggerFactory(file=sink),  # type: ignore[arg-type]
        cache_logger_on_first_use=False,
    )
    logging.basicConfig(handlers=[_Forward()], level=logging.WARNING, force=True)
    return Log(sink, flood)


def _with_priority(render: Callable[[object, str, "_Event"], object]) -> Callable[[object, str, "_Event"], str]:
    def prefixed(logger: object, method: str, event: _Event) -> str:
        priority = _PRIORITIES[event["level"]]  # before the renderer takes it
        return f"<{priority}>{render(logger, method, event)!s}"

    return prefixed


_Event = MutableMapping[str, Any]


def _add_time(_: object, __: str, event: _Event) -> _Event:
    event["timestamp"] = format_instant(utc_now())
    return event


def _escape_values(_: object, __: str, event: _Event) -> _Event:
    traceback = event.pop("exception", None)
    if traceback is not None:
        event["traceback"] = traceback
    return {escape(key): escape(value) if isinstance(value, str) else value for key, value in event.items()}


def _order_keys(_: object, __: str, event: _Event) -> _Event:
    head = ("timestamp", "level", "event")
    return {key: event[key] for key in (*head, *(key for key in event if key not in head))}
