"""How many bytes of revisions each principal may cause within a day; revisions are kept as long as their schedule."""

import math
import time
from collections.abc import Callable

from daemon.errors import LimitError
from daemon.units import format_size

MOST = 64 * 1024 * 1024  # bytes
_DAY = 86_400.0  # seconds


class Allowance:
    """What principals have used; it becomes less with time, so that all of it is free again after a day."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[str, tuple[float, float]] = {}  # the bytes, and when they were counted

    def check(self, principal: str) -> None:
        """Raise LimitError if a principal has used its allowance up."""
        over = self._left_of(principal) - MOST
        if over > 0:
            minutes = math.ceil(over / MOST * _DAY / 60)
            raise LimitError(
                f"{principal} has changed schedules so much that {format_size(MOST)} of revisions were stored within a "
                f"day, which is the limit; repeat this in {minutes} min, or ask an administrator to do it"
            )

    def use(self, principal: str, size: int) -> None:
        """Count what a principal has caused; a single change may exceed the allowance."""
        self._used[principal] = (self._left_of(principal) + size, self._clock())

    def _left_of(self, principal: str) -> float:
        used, at = self._used.get(principal, (0.0, 0.0))
        return max(0.0, used - (self._clock() - at) / _DAY * MOST)
