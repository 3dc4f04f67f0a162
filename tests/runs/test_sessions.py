"""The session that the runs of a schedule share: which run gets it, and which one the next run gets."""

import json
from functools import partial
from typing import Any

import pytest

from daemon.agents.base import Outcome, RunSettings
from daemon.model import RunStatus
from daemon.runs.finish import finish
from daemon.runs.sessions import choose_session
from daemon.schedules.revision import Revision, redefine, remove
from daemon.store.connection import Transaction
from daemon.store.runs import change_status, get_run
from daemon.store.schedules import get_schedule
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import NO_NOTIFICATIONS

COMPLETED, FAILED = RunStatus.COMPLETED, RunStatus.FAILED


class Sessions:
    """A schedule that continues its session, whose runs are claimed and ended one by one."""

    def __init__(self, ledger: Ledger) -> None:
        self.ledger = ledger
        self.now = START
        self.runs = 0

    async def due(self) -> int:
        """Let the schedule be due; return the number of its run."""
        self.now += 10 * SECOND
        await self.ledger.decide(self.now)
        [newest] = await self.ledger.select("SELECT max(id) AS id FROM runs")
        self.runs = newest["id"]
        return self.runs

    async def claim(self, number: int, settings: RunSettings | None = None) -> str | None:
        """Claim a run; return the session that it is given."""

        def write(tx: Transaction) -> str | None:
            run = get_run(tx, number)
            assert run is not None
            session = choose_session(tx, run, settings or RunSettings(), self.now)
            change_status(tx, run, RunStatus.RUNNING, self.now, {"resumed_session": session})
            return session

        return await self.ledger.database.write(write)

    async def end(self, number: int, outcome: Outcome, settings: RunSettings | None = None) -> None:
        write = partial(finish, instance="instance", chance=0.5, outbox=NO_NOTIFICATIONS)
        later = self.now + SECOND
        await self.ledger.database.write(lambda tx: write(tx, number, outcome, settings or RunSettings(), later))

    async def run(self, outcome: Outcome) -> str | None:
        """Take a run through; return the session that it was given."""
        number = await self.due()
        given = await self.claim(number)
        await self.end(number, outcome)
        return given

    async def events(self, number: int) -> dict[str, dict[str, Any]]:
        rows = await self.ledger.select(f"SELECT type, data FROM events WHERE run_id = {number}")
        return {row["type"]: json.loads(row["data"]) for row in rows if row["type"].startswith("session")}


@pytest.fixture
async def sessions(ledger: Ledger) -> Sessions:
    return await declared(ledger)


async def declared(ledger: Ledger, *lines: str) -> Sessions:
    await ledger.declare('session = "continue"', 'overlap = "buffer_all"', *lines)
    return Sessions(ledger)


def good(session: str | None, **keys: Any) -> Outcome:  # noqa: ANN401
    return Outcome(COMPLETED, session=session, **keys)


async def test_a_run_continues_the_session_of_the_last_completed_one(sessions: Sessions) -> None:
    assert await sessions.run(good("s-1")) is None
    assert (await sessions.events(1)) == {"session_begun": {"reason": "there is none to continue"}}
    assert await sessions.run(Outcome(FAILED, session="s-9")) == "s-1"
    assert await sessions.run(Outcome(RunStatus.INTERRUPTED)) == "s-1"
    assert await sessions.run(good(None)) == "s-1"
    assert await sessions.run(good("s-2")) == "s-1"
    assert (await sessions.events(5))["session_changed"] == {"from": "s-1", "to": "s-2"}
    assert await sessions.run(good("s-2")) == "s-2"
    assert (await sessions.events(6)) == {"session_continued": {"session": "s-2"}}


async def test_a_schedule_that_does_not_continue_begins_each_time(ledger: Ledger) -> None:
    await ledger.declare()
    sessions = Sessions(ledger)
    assert [await sessions.run(good("s-1")) for _ in range(2)] == [None, None]
    assert await ledger.select("SELECT * FROM sessions") == []
    assert await sessions.events(2) == {}


async def test_no_two_active_runs_have_one_session(sessions: Sessions) -> None:
    await sessions.run(good("s-1"))
    first, second = await sessions.due(), await sessions.due()
    assert await sessions.claim(first) == "s-1"
    assert await sessions.claim(second) is None
    reason = f"run {first} works in that of the schedule; no other run continues this one"
    assert await sessions.events(second) == {"session_begun": {"reason": reason}}
    await sessions.end(second, good("s-beside"))
    await sessions.end(first, good("s-1"))
    assert await sessions.run(good("s-1")) == "s-1"


async def test_a_run_beside_another_changes_nothing_even_if_it_ends_last(sessions: Sessions) -> None:
    await sessions.run(good("s-1"))
    first, second = await sessions.due(), await sessions.due()
    await sessions.claim(first)
    await sessions.claim(second)
    await sessions.end(first, good("s-1"))
    await sessions.end(second, good("s-beside", session_refused="it is gone"))
    assert await sessions.run(good("s-1")) == "s-1"


async def test_a_run_that_went_back_to_the_queue_frees_the_session(sessions: Sessions) -> None:
    await sessions.run(good("s-1"))
    first, second = await sessions.due(), await sessions.due()
    await sessions.claim(first)
    await sessions.ledger.move(first, RunStatus.PENDING)
    assert await sessions.claim(second) == "s-1"
    assert await sessions.claim(first) is None


@pytest.mark.parametrize(
    ("line", "given"),
    [
        ("session_max_runs = 2", [None, "s", "s", None, "s"]),
        ('session_max_age = "25s"', [None, "s", "s", None, "s"]),
    ],
)
async def test_a_session_ends_at_its_limits(ledger: Ledger, line: str, given: list[str | None]) -> None:
    sessions = await declared(ledger, line)
    found = [await sessions.run(good("s")), await sessions.run(Outcome(FAILED))]
    assert [*found, *[await sessions.run(good("s")) for _ in range(3)]] == given
    [reason] = [event["reason"] for event in (await sessions.events(4)).values()]
    assert line.partition(" ")[0] in reason


async def test_a_refused_session_is_not_tried_again_and_the_next_attempt_begins_one(sessions: Sessions) -> None:
    await sessions.run(good("s-1"))
    number = await sessions.due()
    assert await sessions.claim(number) == "s-1"
    await sessions.end(number, Outcome(FAILED, session_refused="No conversation found", permanent=True))
    assert await sessions.events(number) == {
        "session_continued": {"session": "s-1"},
        "session_refused": {"reason": "No conversation found"},
    }
    [attempt] = await sessions.ledger.select(f"SELECT * FROM runs WHERE previous_run_id = {number}")
    assert (
        attempt["not_before"]
        <= (await sessions.ledger.select(f"SELECT * FROM runs WHERE id = {number}"))[0]["updated_at"]
    )
    assert await sessions.claim(attempt["id"]) is None
    await sessions.end(attempt["id"], Outcome(FAILED, session_refused="it says so again"))
    assert await sessions.ledger.select(f"SELECT * FROM runs WHERE previous_run_id = {attempt['id']}") == []


async def test_an_agent_that_began_anew_by_itself_gets_no_further_attempt(sessions: Sessions) -> None:
    await sessions.run(good("s-1"))
    number, acp = await sessions.due(), RunSettings(kind="acp")
    await sessions.claim(number, acp)
    await sessions.end(number, Outcome(FAILED, session="s-2", session_refused="it is gone"), acp)
    assert await sessions.ledger.select("SELECT * FROM runs WHERE previous_run_id IS NOT NULL") == []
    assert await sessions.run(good("s-3", session_refused=None)) is None
    assert await sessions.run(good("s-4", session_refused="it is gone")) == "s-3"
    assert await sessions.run(good("s-4")) == "s-4"


async def test_the_next_attempt_knows_the_session_of_the_previous_one(ledger: Ledger) -> None:
    await ledger.declare()
    sessions = Sessions(ledger)
    number = await sessions.due()
    await sessions.claim(number)
    await sessions.end(number, Outcome(FAILED, session="s-1"), RunSettings(attempts=2))
    found = await ledger.database.read(lambda c: get_run(c, number + 1))
    assert found is not None
    assert (found.previous_session, found.resumed_session) == ("s-1", None)


@pytest.mark.parametrize("change", ["new", "delete"])
async def test_a_schedule_that_ends_or_begins_anew_forgets_its_session(sessions: Sessions, change: str) -> None:
    await sessions.run(good("s-1"))

    def write(tx: Transaction) -> None:
        row = get_schedule(tx, "a", "s")
        assert row is not None
        if change == "delete":
            remove(tx, row, sessions.now, Revision("root", "delete"))
        else:
            redefine(tx, row, {"session": "new"}, sessions.now, Revision("root", "update"))

    await sessions.ledger.database.write(write)
    assert await sessions.ledger.select("SELECT * FROM sessions") == []


async def test_agents_behind_a_url_have_no_session_to_continue(sessions: Sessions) -> None:
    assert await sessions.claim(await sessions.due(), RunSettings(kind="a2a")) is None
    assert await sessions.ledger.select("SELECT * FROM sessions") == []
