"""Standing loops and the problems they note."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest

from daemon.errors import StoreDamagedError
from daemon.problems import Problem, Problems, standing_loop
from tests.support.injection import InjectedError, Plan, driven

NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)


class Clock:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = NOW

    def __call__(self) -> datetime:
        return self.now


def test_a_problem_counts_its_failures_until_it_is_solved() -> None:
    problems = Problems(Clock())
    for _ in range(3):
        problems.report("queue", "no room", subject="run 1", agent="a", retry_in=5)
    problems.report("clock", "x")
    [clock, queue] = problems.current()
    assert (queue.subject, queue.failures, queue.since, queue.retry_at) == ("run 1", 3, NOW, NOW + timedelta(seconds=5))
    assert (clock.subject, clock.retry_at) == (None, None)
    assert problems.by_part() == {"clock": 1, "queue": 1}
    problems.resolve("queue", "run 1")
    problems.resolve("queue", "run 2")
    assert problems.by_part() == {"clock": 1}


def test_pauses_double_up_to_the_longest() -> None:
    problems = Problems(Clock())
    pauses = []
    for _ in range(5):
        pauses.append(problems.next_pause("queue", "run 1", first=5, longest=30))
        problems.report("queue", "x", subject="run 1", retry_in=pauses[-1])
    assert pauses == [5, 10, 20, 30, 30]


def test_a_problem_of_something_that_is_no_longer_retried_is_forgotten() -> None:
    clock = Clock()
    problems = Problems(clock)
    problems.report("clock", "x", subject="a/s", retry_in=60)
    problems.report("retention", "y", subject="sweep")
    clock.now += timedelta(minutes=7)
    assert problems.by_part() == {"retention": 1}


async def test_a_loop_continues_after_an_error_at_each_of_its_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.problems._FIRST_PAUSE", 0.001)
    problems, done = Problems(), asyncio.Event()
    plan = Plan(range(1, 6), late=False)

    async def work() -> str:
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        return "result"

    async def rest(result: str) -> None:
        await asyncio.sleep(0)
        assert result == "result"
        assert problems.current() == []
        if plan.is_done:
            done.set()

    loop = asyncio.create_task(driven(standing_loop("part", problems, work, rest), plan))
    async with asyncio.timeout(20):
        await done.wait()
    assert not loop.done()
    loop.cancel()
    with pytest.raises(asyncio.CancelledError):
        await loop


async def test_an_error_is_a_problem_until_the_work_succeeds() -> None:
    problems, resting = Problems(), asyncio.Event()
    seen: list[Problem] = []

    async def work() -> None:
        if len(seen) < 2:
            seen.extend(problems.current() or [Problem("part", None, None, "first", NOW, 0, None)])
            raise InjectedError("no")

    async def rest(_: None) -> None:
        resting.set()
        await asyncio.Event().wait()

    loop = asyncio.create_task(standing_loop("part", problems, work, rest))
    async with asyncio.timeout(20):
        await resting.wait()
    assert (seen[1].part, seen[1].subject, seen[1].reason, seen[1].failures) == ("part", None, "InjectedError: no", 1)
    assert problems.current() == []
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)


@pytest.mark.parametrize("grouped", [False, True])
async def test_a_damaged_database_ends_the_loop(*, grouped: bool) -> None:
    async def work() -> None:
        damage = StoreDamagedError("damaged")
        raise ExceptionGroup("several", [damage]) if grouped else damage

    with pytest.raises(ExceptionGroup if grouped else StoreDamagedError):
        await standing_loop("part", Problems(), work)


async def test_a_rest_that_fails_lengthens_the_pauses_like_work_that_fails(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("daemon.problems._FIRST_PAUSE", 0.001)
    pauses: list[float] = []
    problems, slept = Problems(lambda: NOW), asyncio.Event()

    async def work() -> None:
        if len(pauses) == 4:
            slept.set()

    async def rest(_: None) -> None:
        if len(pauses) == 4:
            await asyncio.Event().wait()
        raise InjectedError("no")

    report = problems.report

    def noted(part: str, reason: object, *, retry_in: float) -> None:
        pauses.append(retry_in)
        report(part, reason, retry_in=retry_in)

    monkeypatch.setattr(problems, "report", noted)
    loop = asyncio.create_task(standing_loop("part", problems, work, rest))
    async with asyncio.timeout(20):
        await slept.wait()
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    assert pauses == [0.001, 0.002, 0.004, 0.008]
