"""Split the output of a run, in which both streams are mixed, into objects of a format and what is none; for people.

An object may be a line, a part of one, since the end of a line of the other stream need not have come before it, or
several lines between those that are a single bracket. Everything else is text, which is passed on as it is; but a long
line that looks like an object, and cannot be read, is only counted: it was cut, or holds too much.
"""

import re
from collections.abc import Generator, Iterator
from typing import Any, NamedTuple

from .reader import LONGEST, Format, first_value, last_of_array, objects_of

_OPENING = re.compile(rb'\{"|\[\{"')
_BEGINNINGS = (b'{"', b'[{"')
_OPENING_ALONE = (b"{", b"[", b"[{")
_CLOSING_ALONE = (b"}", b"]")
_DROPPED = re.compile(rb"\[agentcron: \d+ bytes of output were dropped here\]\n?")
_LONG = 4096  # bytes
_MOST_IN_LINE = 16  # objects


class Unread(NamedTuple):
    """A line that cannot be read."""

    size: int
    """In bytes."""


class Dropped(NamedTuple):
    """The line that stands for the middle of the output, which was not kept."""

    line: bytes


Piece = dict[str, Any] | bytes | Unread | Dropped
"""An object of the format, or else a text, usually a line with its end."""


class Lines:
    """Finds what can be shown in a stream of bytes; holds at most about a line and a document (`LONGEST`)."""

    def __init__(self, found: Format) -> None:
        self._format = found
        self._line = bytearray()
        self._cut = 0  # bytes of a line that looks like an object, no longer held
        self._is_text = False  # whether the beginning of the line was passed on
        self._document = bytearray()
        self._after_gap = False

    def feed(self, chunk: bytes) -> Iterator[Piece]:
        """Yield what is complete now."""
        at = 0
        while at < len(chunk):
            end = chunk.find(b"\n", at) + 1  # not splitlines: a carriage return ends no line
            self._line += chunk[at : end or len(chunk)]
            at = end or len(chunk)
            if len(self._line) > LONGEST:
                yield from self._shorten()
            if end:
                yield from self._end_of_line()

    def finish(self) -> Iterator[Piece]:
        """Yield what is left when nothing more comes."""
        if self._line:
            yield from self._end_of_line()
        yield from self._end_of_document()

    def _shorten(self) -> Iterator[Piece]:
        """Pass on the beginning of a long text; of what looks like an object, keep the end, where a result may be."""
        if not self._cut and (self._is_text or not self._line.startswith(_BEGINNINGS)):
            yield from self._end_of_document()
            yield bytes(self._line)
            self._line.clear()
            self._is_text = True
        else:
            self._cut += len(self._line) - LONGEST
            del self._line[:-LONGEST]

    def _end_of_line(self) -> Iterator[Piece]:
        line, cut, is_text, after_gap = bytes(self._line), self._cut, self._is_text, self._after_gap
        self._line, self._cut, self._is_text, self._after_gap = bytearray(), 0, False, False
        if is_text:
            yield line
        elif cut:
            yield from self._end_of_document()
            yield Unread(len(line) + cut)
            yield from self._own(last_of_array(line))
        elif _DROPPED.fullmatch(line):
            self._after_gap = True
            yield from self._end_of_document()
            yield Dropped(line)
        elif not (yield from self._continues_document(line)):
            yield from self._in_line(line, is_fragment=after_gap)

    def _continues_document(self, line: bytes) -> Generator[Piece, None, bool]:
        """Return whether a line belongs to a document over several lines; what begins with a bracket ends that, too."""
        bare = line.rstrip()
        if bare in _OPENING_ALONE or (self._document and line.startswith(_OPENING_ALONE)):
            yield from self._end_of_document()
        if not self._document and bare not in _OPENING_ALONE:
            return False
        self._document += line
        if bare in _CLOSING_ALONE or len(self._document) > LONGEST:
            yield from self._end_of_document()
        return True

    def _end_of_document(self) -> Iterator[Piece]:
        """Yield the objects of what was held, or itself if it is none."""
        held, self._document = bytes(self._document), bytearray()
        objects = self._own(objects_of(held)) if held else []
        yield from objects
        if held and not objects:
            yield held

    def _in_line(self, line: bytes, *, is_fragment: bool) -> Iterator[Piece]:
        """Yield the objects in a line, and the text before, between and after them."""
        rest = line
        for _ in range(_MOST_IN_LINE):
            found = _OPENING.search(rest)
            value, end = first_value(rest[found.start() :]) if found else (None, 0)
            objects = self._own(value)
            if found is None or not objects:
                is_fragment = is_fragment or (found is not None and found.start() == 0 and not end)
                break
            if rest[: found.start()].strip():
                yield rest[: found.start()]
            yield from objects
            rest = rest[found.start() + end :]
        if rest is line or rest.strip():
            yield Unread(len(rest)) if is_fragment and len(rest) > _LONG else rest

    def _own(self, value: object) -> list[dict[str, Any]]:
        """Return the objects of the format that a value is, or consists of."""
        items = value if isinstance(value, list) else [value]
        return [item for item in items if isinstance(item, dict) and self._format.has(item)]
