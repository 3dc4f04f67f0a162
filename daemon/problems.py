"""What fails at the moment, and the loops that continue nevertheless: each failure is logged, shown and retried."""

import asyncio
from collections import Counter
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import NoReturn, TypeVar

import structlog

from daemon.errors import AgentcronError, StoreDamagedError
from daemon.units import utc_now

T = TypeVar("T")
_LOG = structlog.get_logger()
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 30.0  # seconds before a loop continues after a failure
_FORGOTTEN_AFTER = timedelta(minutes=5)  # beyond the time of its retry: what it was about may no longer exist
_LONGEST_REASON = 300  # characters


@dataclass(frozen=True)
class Problem:
    """One thing that fails, and is retried."""

    part: str
    """The part of the daemon that is concerned, such as `clock`."""
    subject: str | None
    """The schedule, run, workspace or target that cannot be worked on; None: the part as a whole."""
    agent: str | None
    """The agent that the subject belongs to, if there is one."""
    reason: str
    since: datetime
    failures: int
    """How often in a row it has failed."""
    retry_at: datetime | None
    """When it is retried; None: at the part's next scheduled time."""


class Problems:
    """The current problems of one daemon. A problem disappears once what failed has succeeded."""

    def __init__(self, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._known: dict[tuple[str, str | None], Problem] = {}

    def report(
        self,
        part: str,
        reason: object,
        *,
        subject: str | None = None,
        agent: str | None = None,
        retry_in: float | None = None,
    ) -> int:
        """Note that something has failed, and return how often it has in a row.

        It is retried after so many seconds, None: at the next scheduled time.
        """
        now, known = self._now(), self._known.get((part, subject))
        retry_at = None if retry_in is None else now + timedelta(seconds=retry_in)
        failures, since = (known.failures + 1, known.since) if known and not _is_over(known, now) else (1, now)
        text = str(reason)[:_LONGEST_REASON]
        self._known[part, subject] = Problem(part, subject, agent, text, since, failures, retry_at)
        return failures

    def next_pause(self, part: str, subject: str, *, first: float, longest: float) -> float:
        """Return the seconds to wait after one more failure: doubled with each failure in a row, within two limits."""
        known = self._known.get((part, subject))
        failures = known.failures if known and not _is_over(known, self._now()) else 0
        return min(first * 2.0 ** min(failures, 40), longest)

    def resolve(self, part: str, subject: str | None = None) -> None:
        """Note that something works, whether or not it failed before."""
        self._known.pop((part, subject), None)

    def keep_only(self, part: str, subjects: Collection[str]) -> None:
        """Drop the problems of a part with subjects other than these: it has just worked on all that there is."""
        for of, subject in list(self._known):
            if of == part and subject is not None and subject not in subjects:
                self.resolve(part, subject)

    def current(self) -> list[Problem]:
        """Return all problems, those of one part together."""
        now = self._now()
        self._known = {key: problem for key, problem in self._known.items() if not _is_over(problem, now)}
        return sorted(self._known.values(), key=lambda problem: (problem.part, problem.subject or ""))

    def by_part(self) -> dict[str, int]:
        """Return how many problems each part has."""
        return dict(Counter(problem.part for problem in self.current()))


def _is_over(problem: Problem, now: datetime) -> bool:
    return problem.retry_at is not None and now > problem.retry_at + _FORGOTTEN_AFTER


def described(error: BaseException) -> str:
    """Return an error in one line: the text of an expected one, the type and text of any other."""
    return str(error) if isinstance(error, AgentcronError) else f"{type(error).__name__}: {error}"


def damage_in(error: BaseException) -> StoreDamagedError | None:
    """Return the error that reports a damaged database, if it is among the causes of an error."""
    if isinstance(error, BaseExceptionGroup):
        return next((found for one in error.exceptions if (found := damage_in(one)) is not None), None)
    return error if isinstance(error, StoreDamagedError) else None


async def standing_loop(
    part: str,
    problems: Problems,
    work: Callable[[], Awaitable[T]],
    rest: Callable[[T], Awaitable[object]] | None = None,
) -> NoReturn:
    """Alternate work and rest until the task is cancelled; `rest` gets what `work` returned.

    An error ends neither the loop nor the daemon: it is logged and noted as a problem of the part, and the work begins
    anew after a pause that grows with each failure. So work must be able to begin anew after any of its steps. Raise
    StoreDamagedError: a daemon must not continue on a damaged database.
    """
    pause = 0.0
    while True:
        try:
            if pause:
                await asyncio.sleep(pause)
            result = await work()
            problems.resolve(part)
            if rest is not None:
                await rest(result)
            pause = 0.0  # not before the rest, which may be what fails
        except Exception as error:
            if damage_in(error) is not None:
                raise
            pause = min(max(pause * 2, _FIRST_PAUSE), _LONGEST_PAUSE)
            failures = problems.report(part, described(error), retry_in=pause)
            is_expected = isinstance(error, AgentcronError)
            if not is_expected or failures & (failures - 1) == 0:  # the 1st, 2nd, 4th, 8th time in a row
                _LOG.error(
                    "[daemon] A part of the daemon failed; it continues",
                    part=part,
                    error=described(error),
                    retry_in_s=pause,
                    exc_info=not is_expected,
                )
