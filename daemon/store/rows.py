"""Turn what an unreadable row of the database causes into one error, where rows become objects."""

import contextlib
from collections.abc import Iterator

from daemon.errors import DamagedRowError

UNREADABLE = (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError)
"""What values cause that agentcron did not write."""


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
