r"""Mask secret values in what agents and peers say, also where they stand escaped, as in JSON (`\/`, `\u003d`).

Text is masked after it was decoded (`Secrets.masked`), and before it is cut, since half a secret is none that can be
recognized (`Secrets.brief`). The raw output of a command is masked as a stream of bytes (`Mask`). There, a value is
found in any mixture of escapes, also if the JSON was itself put into a string of JSON. It is not found in any other
form, such as Base64, a URL's percent signs, or a hash.

How escapes are undone. A run of backslashes with `uXXXX` after it becomes the character that it stands for, whatever
the number of backslashes, because each level of JSON in JSON doubles it. All other backslashes are dropped, and a line
feed becomes an `n`, so that `\n`, a line feed, and a backslash before an n are the same. The values are brought into
the same form and searched for in it. What is found is replaced in the original, with whole escapes, so that JSON
remains JSON.
"""

import re
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import Any

MASKED = "***"
_MASK = MASKED.encode()
_SHORTEST_LINE = 8  # of a secret of several lines; shorter lines, such as "}", are not secret
_LONGEST_BEGINNING = 8  # bytes of a secret at the end of a text that are masked, because the text may have been cut
_RUN = rb"\\{1,64}(?:u005[cC]\\{0,64}){0,8}"  # of backslashes, escaped or not; longer runs are several
_HIGH, _LOW = rb"u[dD][89abAB][0-9a-fA-F]{2}", rb"u[dD][c-fC-F][0-9a-fA-F]{2}"  # halves of one character (RFC 8259)
_CODE = rb"%b%b%b|u[0-9a-fA-F]{4}" % (_HIGH, _RUN, _LOW)
_ESCAPE = re.compile(rb"%b(%b)?" % (_RUN, _CODE))
_CODED = re.compile(rb"\\(?=u)(?:u005[cC]\\{0,64}){0,8}(%b)?" % _CODE)  # an escape, from its last backslash before a u
_UNFINISHED = re.compile(rb"(?:%b%b)?(?:%b(?:u[0-9a-fA-F]{0,3})?)?\Z" % (_RUN, _HIGH, _RUN))
_LONGEST_UNFINISHED = 200  # bytes
_LETTERS = bytes.maketrans(b"\b\f\n\r\t", b"bfnrt")
_LONGEST_ESCAPE = 8  # bytes for one byte of a value, in JSON within JSON


class Secrets:
    """The secret values of one run."""

    def __init__(self, values: Iterable[str]) -> None:
        self.values: list[bytes] = []
        """As they are, longest first."""
        self.plain: list[bytes] = []
        """Without escapes, longest first."""
        self._longest = 0
        whole = {value.encode() for value in values if value}
        if not whole:  # as in most runs
            return
        lines = {line for value in whole for line in value.splitlines() if len(line) >= _SHORTEST_LINE}
        self.values = sorted(whole | lines, key=len, reverse=True)
        plain = {form for value in self.values for form in _plain_forms(value)}
        self.plain = sorted(plain, key=len, reverse=True)
        self._longest = len(self.values[0])

    def masked(self, text: str) -> str:
        """Return a text with the secrets masked, and a part of one that the text may have been cut in."""
        return self.masked_part(text.encode(errors="replace")).decode(errors="replace")

    def masked_part(self, data: bytes) -> bytes:
        """Return data with the secrets masked, and a part of one that the data was cut in."""
        return self._without_beginning(self.masked_bytes(data))

    def brief(self, text: str, most: int) -> str:
        """Return at most `most` characters of a text, with the secrets masked before it is cut."""
        return self.masked(text[: most + self._longest * _LONGEST_ESCAPE])[:most]

    def masked_value(self, value: Any) -> Any:  # noqa: ANN401 - any JSON
        """Return a JSON value with the secrets masked in it; raise RecursionError if it is too deep.

        A number that contains a secret becomes a string.
        """
        match value:
            case str():
                return self._masked_whole(value)
            case int() | float() if not isinstance(value, bool):
                shown = self._masked_whole(str(value))
                return value if shown == str(value) else shown
            case list():
                return [self.masked_value(one) for one in value]
            case dict():
                return {self._masked_whole(key): self.masked_value(one) for key, one in value.items()}
        return value

    def _masked_whole(self, text: str) -> str:
        return self.masked_bytes(text.encode(errors="replace")).decode(errors="replace")

    def masked_bytes(self, data: bytes) -> bytes:
        """Return data with the secrets masked."""
        if not self.values:
            return data
        if b"\\" in data:
            return _replaced(data, self._spans(data)) if self._occur_in(data) else data
        for value in self.values:
            data = data.replace(value, _MASK)
        return data

    def beginning(self, data: bytes) -> int:
        """Return the length of the longest suffix of the data, whole escapes, that a secret may begin in."""
        literal = _longest_beginning(data, self.values)
        data = data[-self._longest * _LONGEST_ESCAPE - _LONGEST_UNFINISHED :]
        if b"\\" not in data:
            return literal
        unfinished = _UNFINISHED.search(data, max(0, len(data) - _LONGEST_UNFINISHED))
        end = unfinished.start() if unfinished else len(data)
        length = _longest_beginning(_plain_text(data[:end]), self.plain)
        if not length and not literal:  # as nearly always
            return len(data) - end
        plain = _Plain(data[:end])
        start = min(len(data) - literal, plain.start_of(len(plain.text) - length) if length else end)
        return len(data) - plain.widened(start, len(data))[0]

    def _occur_in(self, data: bytes) -> bool:
        text = _plain_text(data)
        return any(value in text for value in self.plain) or any(value in data for value in self.values)

    def _spans(self, data: bytes) -> list[tuple[int, int]]:
        """Return where secrets are in the data, in order; spans may overlap."""
        plain = _Plain(data)
        found = [plain.span(*span) for value in self.plain for span in _occurrences(plain.text, value)]
        found += [plain.widened(*span) for value in self.values for span in _occurrences(data, value)]
        return sorted(found)

    def _without_beginning(self, data: bytes) -> bytes:
        length = self.beginning(data)
        if any(length >= min(_LONGEST_BEGINNING, max(4, len(value) // 2)) for value in self.values):
            return data[: len(data) - length] + _MASK
        return data


class Mask:
    """Masks secrets in a stream, even if a value is split between two chunks."""

    def __init__(self, secrets: Secrets) -> None:
        self._secrets = secrets
        self._held = b""

    def feed(self, chunk: bytes) -> bytes:
        """Return what can be shown so far; what may be the beginning of a secret is held back."""
        if not self._secrets.values:
            return chunk
        data = self._secrets.masked_bytes(self._held + chunk)
        shown = len(data) - self._secrets.beginning(data)
        self._held = data[shown:]
        return data[:shown]

    def flush(self) -> bytes:
        """Return what was held back: the stream has ended, so it was not a secret."""
        held, self._held = self._held, b""
        return held


class _Plain:
    """Data with its escapes undone, and where each part of it stands in the data."""

    def __init__(self, data: bytes) -> None:
        parts: list[bytes] = []
        at = length = 0
        self._starts: list[int] = []  # of undone escapes: in the text, and their spans in the data
        self._lengths: list[int] = []
        self._spans: list[tuple[int, int]] = []
        for match in _ESCAPE.finditer(data):
            start, end = match.span()
            undone = _undone(match[1])
            parts += (data[at:start], undone)
            length += start - at
            self._starts.append(length)
            self._lengths.append(len(undone))
            self._spans.append((start, end))
            length += len(undone)
            at = end
        self.text = b"".join([*parts, data[at:]]).translate(_LETTERS)

    def span(self, start: int, end: int) -> tuple[int, int]:
        """Return the span in the data of a span of the text."""
        return self.start_of(start), self._end_of(end)

    def start_of(self, position: int) -> int:
        """Return where the escape or the byte at a position of the text begins in the data, with its backslashes."""
        return self._place(position, at_end=False)

    def _end_of(self, position: int) -> int:
        """Return where the escape or the byte before a position of the text ends in the data."""
        return self._place(position - 1, at_end=True)

    def _place(self, position: int, *, at_end: bool) -> int:
        number = bisect_right(self._starts, position) - 1
        if number < 0:
            return position + at_end
        start, end = self._spans[number]
        length = self._lengths[number]
        beyond = position - self._starts[number] - length
        if beyond < 0 or (beyond == 0 and length == 0 and not at_end):
            return end if at_end else start
        return end + beyond + at_end

    def widened(self, start: int, end: int) -> tuple[int, int]:
        """Return a span of the data together with the escapes that it only covers a part of."""
        for number in (bisect_right(self._spans, (start, start)) - 1, bisect_right(self._spans, (end, 0)) - 1):
            if number >= 0:
                first, last = self._spans[number]
                if first < start < last:
                    start = first
                if first < end < last:
                    end = last
        return start, end


def _plain_text(data: bytes) -> bytes:
    """Return the text of `_Plain(data)`, without where each part of it stands.

    Backslashes that no code follows are dropped all at once, so that a flood of them costs next to nothing.
    """
    parts: list[bytes] = []
    at = 0
    for match in _CODED.finditer(data):
        start, end = match.span()
        if start > at:
            parts.append(data[at:start].translate(None, b"\\"))
        parts.append(_undone(match[1]))
        at = end
    return b"".join([*parts, data[at:].translate(None, b"\\")]).translate(_LETTERS)


@lru_cache(4096)
def _undone(letters: bytes | None) -> bytes:
    """Return what backslashes with `uXXXX` after them, once or twice, stand for; nothing for backslashes alone."""
    if letters is None:
        return b""
    units = (letters[1:5],) if len(letters) == len("uXXXX") else (letters[1:5], letters[-4:])
    return bytes.fromhex(b"".join(units).decode()).decode("utf-16-be", "replace").encode()


def _plain_forms(value: bytes) -> Iterator[bytes]:
    """Yield a value without escapes: alone, and after a backslash, with which it may begin like an escape.

    A form that is much shorter than the value would be found everywhere, and is left out.
    """
    for form in (_Plain(value).text, _Plain(b"\\" + value).text):
        if len(form) >= min(len(value), _SHORTEST_LINE):
            yield form


def _occurrences(data: bytes, value: bytes) -> Iterator[tuple[int, int]]:
    at = data.find(value)
    while at != -1:
        yield at, at + len(value)
        at = data.find(value, at + len(value))


def _replaced(data: bytes, spans: Iterable[tuple[int, int]]) -> bytes:
    """Return data with a mask in place of each span, one for spans that overlap."""
    parts: list[bytes] = []
    at = 0
    for start, end in spans:
        if start >= at:
            parts += (data[at:start], _MASK)
        at = max(at, end)
    return b"".join([*parts, data[at:]])


def _longest_beginning(data: bytes, values: Iterable[bytes]) -> int:
    """Return the length of the longest suffix of the data that is the beginning of a value, but not all of it."""
    longest = 0
    for value in values:
        at = data.find(value[:1], max(0, len(data) - len(value) + 1))
        while at != -1:
            if value.startswith(data[at:]):
                longest = max(longest, len(data) - at)
                break
            at = data.find(value[:1], at + 1)
    return longest
