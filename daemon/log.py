"""The log: one event per line through structlog, as JSON or for the console, with all values escaped.

In the journal, each line starts with its level, as sd-daemon(3) describes. Repeated lines beyond a limit are suppressed
and counted.
"""

import atexit
import logging
import os
import time
from collections import Counter
from collections.abc import Callable, MutableMapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import structlog

from daemon.log_file import LogFile
from daemon.systemd import is_journal
from daemon.text import escape
from daemon.units import format_instant, utc_now

_LOG = structlog.get_logger()
_WINDOW = 10.0  # seconds
_MOST_OF_A_KIND = 200  # lines in a window
_PRIORITIES = {"debug": 7, "info": 6, "warning": 4, "error": 3, "critical": 2}  # syslog(3)


class _Forward(logging.Handler):
    """Forwards records of the standard library's logging, which libraries use, to this log."""

    def handle(self, record: logging.LogRecord) -> bool:
        """Forward a record without this handler's lock, which a destructor that logs could wait for."""
        self.emit(record)
        return True

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info if record.exc_info and record.exc_info[0] else None
        event = f"[daemon] {record.getMessage()}"
        structlog.get_logger().log(record.levelno, event, logger=record.name, exc_info=error)


class Flood:
    """Passes a limited number of equal lines in each time window, and logs how many it suppressed.

    Lines are equal if they have the same text and concern the same run, schedule or library. So one line about each of
    many runs or schedules is never suppressed, unless it names a creator, who may have any number of schedules.

    There is no lock: a destructor may log at any point, also while another thread waits for this one in the log's file.
    A line that two threads count at once may be counted once.
    """

    def __init__(self, now: Callable[[], float] = time.monotonic) -> None:
        self._now = now
        self._window_start = now()
        self._seen: Counter[tuple[object, ...]] = Counter()

    def __call__(self, _: object, __: str, event: "_Event") -> "_Event":
        """Pass an event on, as structlog's processors do, or raise DropEvent."""
        self.report_suppressed()
        text, creator = event.get("logger") or event["event"], event.get("creator")
        self._count((text, event.get("run_id"), event.get("schedule"), None))
        if creator is not None:
            self._count((text, None, None, creator))
        return event

    def _count(self, kind: tuple[object, ...]) -> None:
        """Count a line; raise DropEvent if there were too many of its kind."""
        self._seen[kind] += 1
        if self._seen[kind] > _MOST_OF_A_KIND:
            raise structlog.DropEvent

    def report_suppressed(self, *, at_once: bool = False) -> None:
        """Log how many lines the last window suppressed, once it is over, or at once at the end of the daemon."""
        if not at_once and self._now() - self._window_start < _WINDOW:
            return
        seen, self._seen, self._window_start = self._seen, Counter(), self._now()
        for (text, *subjects), count in list(seen.items()):  # another thread may still be counting in it
            if count > _MOST_OF_A_KIND:
                named = zip(("run_id", "schedule", "creator"), subjects, strict=True)
                about = {name: value for name, value in named if value is not None}
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
    sink = LogFile(path, _report_losses)
    atexit.register(sink.close)
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


def _report_losses(lines: int, reason: str) -> None:
    _LOG.warning("[daemon] Lost log lines", lines=lines, reason=reason)


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
