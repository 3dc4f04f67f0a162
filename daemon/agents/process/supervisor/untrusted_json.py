"""Parse JSON from agents and peers: UTF-8 only, bounded in depth and in the number of values, as clients' JSON also is.

Without these bounds, 16 MiB of brackets take 600 MiB of memory, and a value that was nested deeply enough to be parsed
can still be too deep for whatever handles it later.
"""

import json
import re
from collections.abc import Callable
from typing import Any

DEEPEST = 100
"""Levels of arrays and objects."""
MOST_VALUES = 100_000
"""Elements of arrays and members of objects, together."""
_STRUCTURE = re.compile(rb'["\[\]{},]')
_STRING = re.compile(rb'[^"\\]*+(?:\\.[^"\\]*+)*+', re.DOTALL)
_PIECE = 256 * 1024  # bytes of a string that are searched at once, while no other thread can run
_MUCH = 256 * 1024  # bytes; for more than that the C parser would block other threads for too long


class _Decoder(json.JSONDecoder):
    """Parses in Python, so that other threads can run meanwhile, except during a single long string."""

    def __init__(self, parse_constant: Callable[[str], Any] | None) -> None:
        super().__init__(parse_constant=parse_constant)
        self.scan_once = json.scanner.py_make_scanner(self)  # type: ignore[attr-defined]


class UntrustedJsonError(Exception):
    """Data is not JSON, or is too much of it; the text says what it is, as in `is not JSON: ...`."""


def parse(data: bytes, *, allow_nan: bool = False) -> Any:  # noqa: ANN401 - whatever JSON can hold
    """Return a JSON value; raise UntrustedJsonError for anything else, and beyond the bounds.

    `allow_nan` accepts NaN and Infinity, which are not JSON, but which Python's own json writes.
    """
    if json.detect_encoding(data) not in {"utf-8", "utf-8-sig"}:
        raise UntrustedJsonError("is not JSON: it is not UTF-8")
    check_bounds(data)
    try:
        text = data.decode("utf-8-sig", "surrogatepass")
        constant = None if allow_nan else _refuse_constant
        return _Decoder(constant).decode(text) if len(data) > _MUCH else json.loads(text, parse_constant=constant)
    except RecursionError:  # not at this depth, unless the caller itself is deep
        raise UntrustedJsonError("is nested too deeply") from None
    except ValueError as error:
        raise UntrustedJsonError(f"is not JSON: {error}") from None


def objects_in(value: object) -> list[dict[str, Any]]:
    """Return the objects in an array; none if the value is no array."""
    return [one for one in value if isinstance(one, dict)] if isinstance(value, list) else []


def check_bounds(data: bytes | bytearray, deepest: int = DEEPEST, most: int = MOST_VALUES) -> None:
    """Raise UntrustedJsonError if the data holds too many values or too many levels of them.

    Every element of an array and every member of an object counts, whatever it is: each costs memory, and time in
    which no other thread can run. Nothing is built to find out.
    """
    opened = data.count(b"[") + data.count(b"{")
    if opened <= deepest and opened + data.count(b",") <= most:  # even if none of them is inside a string
        return
    depth = values = at = 0
    while (found := _STRUCTURE.search(data, at)) is not None:
        at = found.end()
        match found[0]:
            case b'"':
                at = _end_of_string(data, at)
                continue
            case b"]" | b"}":
                depth -= 1
                continue
            case b"[" | b"{":
                depth += 1
        values += 1
        if depth > deepest:
            raise UntrustedJsonError(f"is nested more than {deepest} levels deep")
        if values > most:
            raise UntrustedJsonError(f"has more than {most} values")


def _end_of_string(data: bytes | bytearray, at: int) -> int:
    """Return the position after the quotation mark that ends a string, or the end of the data."""
    while (found := _STRING.match(data, at, at + _PIECE)) is not None and found.end() > at:
        at = found.end()
    return at + 1


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is not JSON")
