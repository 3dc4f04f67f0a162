"""The log: one event per line through structlog, as JSON or for the console, with all values escaped.

In the journal, each line starts with its level, as sd-daemon(3) describes. Repeated lines beyond a limit are suppressed
and counted.
"""

import contextlib
import logging
import os
import stat
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
_CHECK_EVERY = 1.0  # seconds between two checks whether the file was moved away
_WINDOW = 10.0  # seconds
_MOST_OF_A_KIND = 200  # lines in a window
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)


class LogFile:
    """The destination of lines: a file, reopened after it was moved away, or standard error.

    A line that cannot be written (disk full, closed pipe) is lost; it never stops the daemon.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._checked_at = time.monotonic()
        self._descriptor = _open(path) if path is not None else 2

    def write(self, text: str) -> None:
        """Write one line."""
        if self._path is not None and time.monotonic() - self._checked_at > _CHECK_EVERY:
            self._checked_at = time.monotonic()
            if self._was_moved(self._path):
                self.reopen()
        data = text.encode(errors="backslashreplace")
        with contextlib.suppress(OSError):  # there is nowhere left to report it
            while data:
                data = data[os.write(self._descriptor, data) :]

    def flush(self) -> None:
        """Do nothing: `write` does not buffer."""

    def reopen(self) -> None:
        """Reopen the file after log rotation; keep the old one if that fails."""
        if self._path is None:
            return
        with contextlib.suppress(OSError):  # a moved folder, no free inodes: better the old file than none
            fresh = _open(self._path)
            os.dup2(fresh, self._descriptor, inheritable=False)  # atomic, because other threads may be writing
            os.close(fresh)

    def is_terminal(self) -> bool:
        """Return whether the destination is a terminal."""
        return os.isatty(self._descriptor)

    def _was_moved(self, path: Path) -> bool:
        try:
            there = path.stat()
        except OSError:
            return True
        ours = os.fstat(self._descriptor)
        return (there.st_dev, there.st_ino) != (ours.st_dev, ours.st_ino)


def _open(path: Path) -> int:
    flags = os.O_WRONLY | os.O_APPEND | os.O_NONBLOCK | os.O_CLOEXEC  # a pipe without a reader is an error
    try:
        descriptor = os.open(path, flags | os.O_CREAT | os.O_EXCL, 0o640)
        os.fchmod(descriptor, 0o640)  # whatever the daemon's umask
    except FileExistsError:
        descriptor = os.open(path, flags)
    os.set_blocking(descriptor, not stat.S_ISFIFO(os.fstat(descriptor).st_mode))
    return descriptor


class _Forward(logging.Handler):
    """Forwards records of the standard library's logging, which libraries use, to this log."""

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info if record.exc_info and record.exc_info[0] else None
        event = f"[daemon] {record.getMessage()}"
        structlog.get_logger().log(record.levelno, event, logger=record.name, exc_info=error)


class Flood:
    """Passes a limited number of equal lines in each time window, and logs how many it suppressed.

    Lines are equal if they have the same text and concern the same run, schedule or library. So one line about each of
    many runs or schedules is never suppressed.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._window_start = now()
        self._seen: Counter[tuple[object, ...]] = Counter()
        self._lock = threading.Lock()

    def __call__(self, _: object, __: str, event: "_Event") -> "_Event":
        """Pass an event on, as structlog's processors do, or raise DropEvent."""
        self.report_suppressed()
        text = event.get("logger") or event["event"]
        kind = (text, event.get("run_id"), event.get("schedule"))
        with self._lock:
            self._seen[kind] += 1
            if self._seen[kind] > _MOST_OF_A_KIND:
                raise structlog.DropEvent
        return event

    def report_suppressed(self, *, at_once: bool = False) -> None:
        """Log how many lines the last window suppressed, once it is over, or at once at the end of the daemon."""
        with self._lock:
            if not at_once and self._now() - self._window_start < _WINDOW:
                return
            seen, self._seen, self._window_start = self._seen, Counter(), self._now()
        for (text, run, schedule), count in seen.items():
            if count > _MOST_OF_A_KIND:
                about = {name: value for name, value in (("run_id", run), ("schedule", schedule)) if value is not None}
                _LOG.warning(
                    "[daemon] Suppressed repeated log lines", lines=count - _MOST_OF_A_KIND, like=text, **about
                )


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
        priority = _PRIORITIES[event["level"]]  # before the renderer removes it
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
