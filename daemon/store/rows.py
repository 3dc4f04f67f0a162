"""Read rows that agentcron did not write: bound their texts, and turn what they cause into one error.

A text is cut where it leaves SQLite. What is only shown may end anywhere. What means something must not be used when it
was cut, so one character more than allowed is read, which tells; JSON that was cut is unreadable anyway.
"""

import contextlib
from collections.abc import Iterator

from daemon.errors import DamagedRowError

UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What values cause that agentcron did not write."""

LONGEST_SHOWN = 1024 * 1024
"""Characters of a text that is only shown; agentcron writes less, a damaged database may have any number."""
LONGEST_GIVEN = 16 * 1024 * 1024
"""Characters of an input, and of JSON; a config of 4 MiB makes no more of either, as JSON escapes at most 3 for 1."""


def shown(column: str) -> str:
    """Return the SQL of a text that is only shown."""
    return f"substr({column}, 1, {LONGEST_SHOWN})"


def given(column: str) -> str:
    """Return the SQL of an input or of JSON; it has more than LONGEST_GIVEN characters if it was cut."""
    return f"substr({column}, 1, {LONGEST_GIVEN + 1})"


def damaged(what: str, error: Exception) -> DamagedRowError:
    """Return the error for a row that cannot be read."""
    why = f"{type(error).__name__}: {error}"
    return DamagedRowError(f"{what} in the database is damaged ({why}); run `agentcron doctor`, or restore a backup")


@contextlib.contextmanager
def row_of(what: str) -> Iterator[None]:
    """Raise DamagedRowError if the block cannot read a row; `what` is its object, such as "run 7"."""
    try:
        yield
    except UNREADABLE as error:
        raise damaged(what, error) from None
