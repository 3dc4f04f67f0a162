"""Read the output of an agent as it arrives: find the JSON in it, and fold what that says into a report.

A line that is an object or an array is read by itself. Anything else may be a part of a document over several lines,
which begins with a bracket at the start of a line. Of a line or a document that is too long only the end is kept, and
of an array whose beginning is missing, or that holds too much, only the last object is read.
"""

import json
import re
from collections.abc import Callable, Collection, Iterator
from typing import Any, NamedTuple

from ..supervisor.untrusted_json import UntrustedJsonError, check_bounds
from .events import Event
from .report import Report

LONGEST = 1024 * 1024
"""Bytes of a line, or of a document over several lines, that are kept."""
_MOST_VALUES = 20_000
_OPENS, _CLOSES = (b"{", b"["), (b"}", b"]")
_OPENING = re.compile(rb"^[{\[]", re.MULTILINE)
_TURN = re.compile(rb"^(?:[{\[]|[}\]][ \t\r]*$)", re.MULTILINE)  # what ends a document, or begins another
_DECODER = json.JSONDecoder()
_MARKS_BACKWARDS = re.compile(rb'"\\*|[{}]')


class Format(NamedTuple):
    """What a program prints."""

    events_of: Callable[[dict[str, Any]], Iterator[Event]]
    """Yields what one object says."""
    kinds: Collection[str | None]
    """The types of its objects."""
    reads_errors: bool = False
    """Whether it prints on the standard error as well."""

    def has(self, content: dict[str, Any]) -> bool:
        """Return whether an object can be of this format."""
        kind = content.get("type")
        return kind in self.kinds if isinstance(kind, str) else None in self.kinds and "session_id" in content


class Reader:
    """Reads what an agent prints in one format."""

    def __init__(self, result_format: str) -> None:
        """Read a format; raise LookupError if there is none of that name."""
        self.report = Report()
        found = format_named(result_format)
        self._events_of = found.events_of
        self._output = Documents()
        self._errors = Documents() if found.reads_errors else None

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


def format_named(name: str) -> Format:
    """Return a format, whose file alone is loaded; raise LookupError if there is none of that name."""
    match name:
        case "claude":
            from . import claude  # noqa: PLC0415 - every run has a process of its own

            return Format(claude.events_of, claude.KINDS)
        case "codex":
            from . import codex  # noqa: PLC0415

            return Format(codex.events_of, codex.KINDS)
        case "gemini":
            from . import gemini  # noqa: PLC0415

            return Format(gemini.events_of, gemini.KINDS, reads_errors=True)
        case "opencode":
            from . import opencode  # noqa: PLC0415

            return Format(opencode.events_of, opencode.KINDS)
    raise LookupError(f"no format {name!r}")


class Documents:
    """Finds the JSON objects in a stream of bytes."""

    def __init__(self) -> None:
        self._line = bytearray()
        self._is_cut = False
        self._document = bytearray()  # lines of a document that is not complete

    def feed(self, chunk: bytes) -> Iterator[dict[str, Any]]:
        """Yield the objects that are complete now."""
        at = 0
        while at < len(chunk):
            if not self._line:
                at = self._skip(chunk, at)
            end = chunk.find(b"\n", at)  # JSON may contain other line separators, such as U+2028
            if end < 0:
                self._add(chunk[at:])
                return
            self._add(chunk[at:end])
            yield from self._end_of_line()
            at = end + 1

    def finish(self) -> Iterator[dict[str, Any]]:
        """Yield what the end of the stream completes."""
        yield from self._end_of_line()
        if self._document:
            yield from self._end_of_document()

    def _skip(self, chunk: bytes, at: int) -> int:
        """Return where the next line begins that opens or closes something; those before belong to the document."""
        found = (_TURN if self._document else _OPENING).search(chunk, at)
        begin = found.start() if found else max(at, chunk.rfind(b"\n") + 1)
        if self._document:
            self._extend(chunk[at:begin])
        return begin

    def _add(self, part: bytes) -> None:
        self._line += part
        if len(self._line) > LONGEST:
            del self._line[:-LONGEST]
            self._is_cut = True

    def _extend(self, part: bytes) -> None:
        self._document += part
        if len(self._document) > LONGEST:
            del self._document[:-LONGEST]

    def _end_of_line(self) -> list[dict[str, Any]]:
        """Return the objects that the line completes; the line itself is gone then."""
        line, is_cut = bytes(self._line).rstrip(), self._is_cut
        self._line, self._is_cut = bytearray(), False
        opens, closes = is_cut or line.startswith(_OPENS), line.endswith(_CLOSES)
        if opens and closes and line not in _CLOSES:
            self._document.clear()
            return objects_of(line)
        if opens and not is_cut:
            self._document = bytearray(line + b"\n")
        elif self._document:
            self._extend(line + b"\n")
            if line in _CLOSES:
                return self._end_of_document()
        return []

    def _end_of_document(self) -> list[dict[str, Any]]:
        document, self._document = bytes(self._document), bytearray()
        return objects_of(document)


def objects_of(data: bytes) -> list[dict[str, Any]]:
    """Return the objects of a document: itself, those of an array, or the last one of an array that cannot be read."""
    content = _parsed(data)
    if content is None:
        content = last_of_array(data)
    return [item for item in (content if isinstance(content, list) else (content,)) if isinstance(item, dict)]


def _parsed(data: bytes) -> object:
    """Return a JSON value, None for anything else and beyond the bounds."""
    whole = data.strip()
    value, end = first_value(whole)
    return value if end == len(whole) else None


def first_value(data: bytes) -> tuple[object, int]:
    """Return the JSON value that data begins with, and where it ends; None for anything else and beyond the bounds.

    Its texts are as `values.readable` takes them: decoded as UTF-8, each character would take four bytes of memory as
    soon as there is one that does not fit two.
    """
    try:
        if sum(data.count(mark) for mark in (b"[", b"{", b",")) > _MOST_VALUES:  # some may stand in texts
            check_bounds(data, most=_MOST_VALUES)
        return _DECODER.raw_decode(data.decode("ascii", "surrogateescape"))
    except (UntrustedJsonError, ValueError, RecursionError):
        return None, 0


def last_of_array(data: bytes) -> object:
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
