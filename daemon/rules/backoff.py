"""How long a run waits that failed, or that could not be started."""

from datetime import timedelta

_LONGEST = 3600.0  # seconds
_JITTER = 0.1
_START_AGAIN = timedelta(seconds=2)
_LONGEST_START = timedelta(minutes=5)
_MOST_STARTS = 20


def retry_delay(base: timedelta, attempt: int, chance: float) -> timedelta:
    """Return the wait after failed attempt number `attempt` (from 1): doubled each time, at most 1 h, jittered by 10 %.

    `chance` is the random number of the jitter, in [0, 1).
    """
    doubled = base.total_seconds() * 2.0 ** min(attempt - 1, 40)  # as a timedelta, this could overflow
    return timedelta(seconds=min(doubled, _LONGEST)) * (1 - _JITTER + 2 * _JITTER * chance)


def start_delay(failures: int) -> timedelta | None:
    """Return how long a run waits whose start failed so often in a row (from 1); None if it is not retried.

    From 2 s, doubled each time, at most 5 min; after 20 failures, about an hour, the run fails.
    """
    return None if failures >= _MOST_STARTS else min(_START_AGAIN * 2 ** (failures - 1), _LONGEST_START)
