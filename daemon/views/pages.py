"""Cursors, which say where the next page of a list begins."""

from daemon.errors import InvalidError


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
