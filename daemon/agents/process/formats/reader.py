"""Read the output of an agent as it arrives: find the JSON in it, and fold what that says into a report.

A line that is an object or an array is read by itself. Anything else may be a part of a document over several lines,
which begins with a bracket at the start of a line. Of a line or a document that is too long only the end is kept, and
of an array whose beginning is missing, or that holds too much, only the last object is read.
"""

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from ..supervisor.untrusted_json import UntrustedJsonError, check_bounds
from .events import Event
from .report import Report

LONGEST = 1024 * 1024
"""Bytes of a line, or of a document over several lines, that are kept."""
_MOST_VALUES = 20_000
_OPENS, _CLOSES = (b"{", b"["), (b"}", b"]")
_MARKS_BACKWARDS = re.compile(rb'"\\*|[{}]')

EventsOf = Callable[[dict[str, Any]], Iterator[Event]]


class Reader:
    """Reads what an agent prints in one format."""

    def __init__(self, result_format: str) -> None:
        """Read a format; raise LookupError if there is none of that name."""
        self.report = Report()
        self._events_of, reads_errors = _format(result_format)
        self._output = Documents()
        self._errors = Documents() if reads_errors else None

    def feed(self, chunk: bytes) -> None:
        """Read the next bytes of the standard output."""
        self._take(self._output.feed(chunk))

    def feed_errors(self, chunk: bytes) -> None:
        """Read the next bytes of the standard error."""
        if self._errors is not None:
            self._take(self._errors.feed(chunk))

    def finish(self) -> None:
        """Read what is left when nothing more comes."""
        for documents in (self._errors, self._output):
            if documents is not None:
                self._take(documents.finish())

    def _take(self, objects: Iterator[dict[str, Any]]) -> None:
        for content in objects:
            for event in self._events_of(content):
                self.report.take(event)


def _format(name: str) -> tuple[EventsOf, bool]:
    """Return what reads a format, and whether it prints on the standard error as well; only this one is loaded."""
    match name:
        case "claude":
            from . import claude  # noqa: PLC0415 - every run has a process of its own

            return claude.events_of, False
        case "codex":
            from . import codex  # noqa: PLC0415

            return codex.events_of, False
        case "gemini":
            from . import gemini  # noqa: PLC0415

            return gemini.events_of, True
        case "opencode":
            from . import opencode  # noqa: PLC0415

            return opencode.events_of, False
    raise LookupError(f"no format {name!r}")


class Documents:
    """Finds the JSON objects in a stream of bytes."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._is_cut = False
        self._document = bytearray()  # lines of a document that is not complete

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that are complete now."""
        *lines, rest = chunk.split(b"\n")  # JSON may contain other line separators, such as U+2028
        for line in lines:
            self._add(line)
            yield from self._end_of_line()
        self._add(rest)

    def finish(self) -> Iterator[dict[str, Any]]:
        """Yield what the end of the stream completes."""
        yield from self._end_of_line()
        if self._document:
            yield from _objects_in(bytes(self._document))

    def _add(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > LONGEST:
            del self._line[:-LONGEST]
            self._is_cut = True

    def _end_of_line(self) -> Iterator[dict[str, Any]]:
        line, is_cut = bytes(self._line), self._is_cut
        self._line, self._is_cut = bytearray(), False
        whole = line.rstrip()
        opens, closes = is_cut or whole.startswith(_OPENS), whole.endswith(_CLOSES)
        if opens and closes and len(whole) > 1:
            self._document.clear()
            del line
            yield from _objects_in(whole)
        elif opens and not is_cut:
            self._document = bytearray(line + b"\n")
        elif self._document:
            yield from self._further_line(line, is_end=whole in _CLOSES)

    def _further_line(self, line: bytes, *, is_end: bool) -> Iterator[dict[str, Any]]:
        self._document += line + b"\n"
        if len(self._document) > LONGEST:
            del self._document[:-LONGEST]
        if is_end:
            whole = bytes(self._document)
            self._document.clear()
            yield from _objects_in(whole)


def _objects_in(data: bytes) -> Iterator[dict[str, Any]]:
    """Yield the objects of a document: itself, those of an array, or the last one of an array that cannot be read."""
    content = _parsed(data)
    if content is None:
        content = _last_of_array(data)
    for item in content if isinstance(content, list) else (content,):
        if isinstance(item, dict):
            yield item


def _parsed(data: bytes) -> object:
    """Return a JSON value, None for anything else and beyond the bounds."""
    try:
        check_bounds(data, most=_MOST_VALUES)
        return json.loads(data.decode(errors="replace"))
    except (UntrustedJsonError, ValueError, RecursionError):
        return None


def _last_of_array(data: bytes) -> object:
    """Return the last object of an array whose beginning was not kept, or that is too large; None if there is none."""
    whole = data.rstrip()
    last = whole[:-1].rstrip()
    if not (whole.endswith(b"]") and last.endswith(b"}")):
        return None
    depth, in_string = 0, False
    for mark in _MARKS_BACKWARDS.finditer(last[::-1]):
        if mark[0].startswith(b'"'):  # after an odd number of backslashes, it is a part of a string
            in_string ^= len(mark[0]) % 2 == 1
        elif not in_string:
            depth += 1 if mark[0] == b"}" else -1
            if depth == 0:
                return _parsed(last[-mark.end() :])
    return None
