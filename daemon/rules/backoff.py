"""How long a failed run waits before its next attempt."""

from datetime import timedelta

_LONGEST = 3600.0  # seconds
_JITTER = 0.1


def retry_delay(base: timedelta, attempt: int, chance: float) -> timedelta:
    """Return the wait after failed attempt number `attempt` (from 1): doubled each time, at most 1 h, jittered by 10 %.

    `chance` is the random number of the jitter, in [0, 1).
    """
    doubled = base.total_seconds() * 2.0 ** min(attempt - 1, 40)  # as a timedelta, this could overflow
    return timedelta(seconds=min(doubled, _LONGEST)) * (1 - _JITTER + 2 * _JITTER * chance)
