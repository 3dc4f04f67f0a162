"""How many bytes that are kept for long each principal may cause within a day: revisions, and inputs of runs."""

import math
import time
from collections.abc import Callable
from enum import Enum

from daemon.errors import LimitError
from daemon.units import format_size

MOST = 64 * 1024 * 1024
"""Bytes of revisions with definitions: of schedules that were created or updated."""
MOST_BRIEF = 8 * 1024 * 1024
"""Bytes of all other revisions, which are small: pause, resume, skip, unskip, delete."""
MOST_OF_RUNS = 64 * 1024 * 1024
"""Bytes of inputs, parameters and metadata of runs: triggered, started, retried and backfilled."""
MOST_OF_FIRES = 256 * 1024 * 1024
"""Bytes of the same of the runs that due times start, of all schedules that one principal created."""
_DAY = 86_400.0  # seconds
_CLEAR_EVERY = 3600.0  # seconds


class Kind(Enum):
    """What is counted apart, so that whoever has used up one allowance still has the others."""

    DEFINITIONS = "changed schedules so much that {} of revisions were"
    CHANGES = "paused or deleted schedules so often that {} of revisions were"
    RUNS = "requested so many runs that {} of inputs would be"
    FIRES = "created schedules that started so many runs that {} of inputs were"

    @property
    def most(self) -> int:
        """The bytes of one day."""
        return {
            Kind.DEFINITIONS: MOST,
            Kind.CHANGES: MOST_BRIEF,
            Kind.RUNS: MOST_OF_RUNS,
            Kind.FIRES: MOST_OF_FIRES,
        }[self]


class Allowance:
    """What principals have used; it becomes less with time, so that all of it is free again after a day."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._used: dict[tuple[str, Kind], tuple[float, float]] = {}  # the bytes, and when they were counted
        self._cleared_at = clock()

    def check(self, principal: str, kind: Kind, size: int = 0) -> None:
        """Raise LimitError if a principal has used up an allowance, or would with `size` more bytes."""
        over = self._used_of((principal, kind)) + size - kind.most
        if over > 0:
            minutes = math.ceil(over / kind.most * _DAY / 60)
            raise LimitError(
                f"{principal} has {kind.value.format(format_size(kind.most))} stored within a day, which is the "
                f"limit; repeat this in {minutes} min, or ask an administrator to do it"
            )

    def used(self, kind: Kind) -> dict[str, float]:
        """Return the bytes that principals have used of an allowance, of those who have used any."""
        return {key[0]: used for key in self._used if key[1] is kind and (used := self._used_of(key)) > 0}

    def use(self, principal: str, size: int, kind: Kind) -> None:
        """Count what a principal has caused; a single change may exceed the allowance."""
        key, now = (principal, kind), self._clock()
        if now - self._cleared_at > _CLEAR_EVERY:  # principals come and go
            self._cleared_at = now
            self._used = {key: used for key, used in self._used.items() if self._used_of(key) > 0}
        self._used[key] = (self._used_of(key) + size, now)

    def _used_of(self, key: tuple[str, Kind]) -> float:
        used, at = self._used.get(key, (0.0, 0.0))
        return max(0.0, used - (self._clock() - at) / _DAY * key[1].most)
