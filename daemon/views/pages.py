"""Pages of lists: how much goes into one, and cursors, which say where the next one begins."""

import json
import sqlite3
from collections.abc import Iterable

from daemon.errors import InvalidError

PAGE_BYTES = 1_000_000
"""About the most bytes of one page; the rest is on the next one."""
_KEYS = 500  # bytes of the keys and short values of an entry


def page_of(rows: Iterable[sqlite3.Row], limit: int, most: int | None) -> tuple[list[sqlite3.Row], bool]:
    """Return the rows that fit into a page, at least one if there are any, and whether there may be more.

    `limit` is the number of rows that the query returns at most; a page has about `most` bytes, None: any number.
    """
    found: list[sqlite3.Row] = []
    left = most
    for row in rows:
        if left is not None:
            left -= size_of(row)
            if left < 0 and found:
                return found, True
        found.append(row)
    return found, len(found) == limit


def size_of(row: sqlite3.Row) -> int:
    """Return about how many bytes a row takes in JSON."""
    return _KEYS + sum(_size_of_text(value) for value in row if isinstance(value, str))


def _size_of_text(text: str) -> int:
    if text.isascii() and text.isprintable():
        return len(text) + text.count('"') + text.count("\\")
    return len(json.dumps(text, ensure_ascii=False).encode())


def number_of(cursor: str | None) -> int:
    """Return the number below which a page begins, the largest possible for the first page; raise InvalidError."""
    if cursor is None:
        return 2**63 - 1
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):  # noqa: PLR2004 - fits into 63 bits
        raise unknown_cursor(cursor)
    return int(cursor)


def unknown_cursor(cursor: str) -> InvalidError:
    """Return the error for an invalid cursor."""
    return InvalidError(f"cursor: {cursor!r} was not returned by this list")


def check_span(first: str | None, last: str | None) -> None:
    """Raise InvalidError if a span (UTC text) ends before it begins."""
    if first is not None and last is not None and first > last:
        raise InvalidError(f"from is after to: {first}, {last}")
