"""How many bytes of revisions each principal may cause within a day; revisions are kept as long as their schedule."""

import math
import time
from collections.abc import Callable

from daemon.errors import LimitError
from daemon.units import format_size

MOST = 64 * 1024 * 1024
"""Bytes of revisions with definitions: of schedules that were created or updated."""
MOST_BRIEF = 8 * 1024 * 1024
"""Bytes of all other revisions, which are small: pause, resume, skip, unskip, delete."""
_DAY = 86_400.0  # seconds
_CLEAR_EVERY = 3600.0  # seconds


class Allowance:
    """What principals have used; it becomes less with time, so that all of it is free again after a day."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[tuple[str, bool], tuple[float, float]] = {}  # the bytes, and when they were counted
        self._cleared_at = clock()

    def check(self, principal: str, *, brief: bool) -> None:
        """Raise LimitError if a principal has used up its allowance for brief revisions, or that for the others."""
        most = _most(brief=brief)
        over = self._left_of((principal, brief)) - most
        if over > 0:
            minutes = math.ceil(over / most * _DAY / 60)
            raise LimitError(
                f"{principal} has changed schedules so much that {format_size(most)} of revisions were stored within a "
                f"day, which is the limit; repeat this in {minutes} min, or ask an administrator to do it"
            )

    def use(self, principal: str, size: int, *, brief: bool) -> None:
        """Count what a principal has caused; a single change may exceed the allowance."""
        key, now = (principal, brief), self._clock()
        if now - self._cleared_at > _CLEAR_EVERY:  # each run that changes schedules is a principal
            self._cleared_at = now
            self._used = {key: used for key, used in self._used.items() if self._left_of(key) > 0}
        self._used[key] = (self._left_of(key) + size, now)

    def _left_of(self, key: tuple[str, bool]) -> float:
        used, at = self._used.get(key, (0.0, 0.0))
        return max(0.0, used - (self._clock() - at) / _DAY * _most(brief=key[1]))


def _most(*, brief: bool) -> int:
    return MOST_BRIEF if brief else MOST
