"""Pools after the ends of runs: what closes them and opens them, and what becomes of the work that met a limit."""

import json
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import pytest

from daemon.agents.base import Outcome, RunSettings
from daemon.clock.alarm import decide_some
from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.fires.decision import Present
from daemon.fires.rewind import step_back
from daemon.model import FailureKind, FireOutcome, RunStatus
from daemon.notify.outbox import Outbox
from daemon.rules.pools import EVERYTHING, Cause, Closure
from daemon.runs.finish import finish
from daemon.runs.pools import PROBED, open_ended, open_probed, pause_pool, resume_pool
from daemon.store.connection import Transaction
from daemon.store.pools import close_pool, closures
from tests.support.ledger import SECOND, START, Ledger

NOW = START + 20 * SECOND
HOUR = timedelta(hours=1)
LIMIT = Outcome(RunStatus.FAILED, "usage  limit\nreached", kind=FailureKind.QUOTA, limit_ends_at=NOW + HOUR)
LOGIN = Outcome(RunStatus.FAILED, "please run /login", kind=FailureKind.AUTH, permanent=True)
SETTINGS = RunSettings(limit_pools=("max",), login_pools=("max",))


@pytest.fixture
def outbox() -> Outbox:
    agents = {"a": {"command": ["true"], "pools": ["max"]}, "stranger": {"command": ["true"]}}
    notify = {"ops": {"command": ["true"]}, "others": {"command": ["true"], "agents": ["stranger"]}}
    return Outbox(LiveConfig(Config.model_validate({"pools": {"max": {}}, "agents": agents, "notify": notify})))


async def end(
    ledger: Ledger, outbox: Outbox, run: int, outcome: Outcome, settings: RunSettings = SETTINGS, now: datetime = NOW
) -> None:
    await ledger.move(run, RunStatus.RUNNING)
    finishing = partial(finish, instance="x", chance=0, outbox=outbox)
    await ledger.database.write(lambda tx: finishing(tx, run, outcome, settings, now))


async def closed(ledger: Ledger) -> list[Closure]:
    return await ledger.database.read(closures)


async def told(ledger: Ledger) -> list[dict[str, Any]]:
    return [json.loads(row["event"]) for row in await ledger.select("SELECT event FROM notifications ORDER BY id")]


async def one_run(ledger: Ledger, *lines: str) -> None:
    await ledger.declare(*lines)
    await ledger.decide(START + 10 * SECOND)


async def opened(ledger: Ledger, outbox: Outbox, now: datetime) -> list[Closure]:
    return await ledger.database.write(lambda tx: open_ended(tx, closures(tx), now, outbox))


async def test_a_limit_closes_the_pool_and_its_work_waits_without_using_up_an_attempt(
    ledger: Ledger, outbox: Outbox
) -> None:
    await one_run(ledger)
    await end(ledger, outbox, 1, LIMIT)
    assert await closed(ledger) == [
        Closure("max", Cause.LIMIT, NOW, NOW + HOUR, "usage limit reached", agent="a", run_id=1)
    ]
    first, second = await ledger.select("SELECT * FROM runs ORDER BY id")
    assert (first["status"], first["failure_kind"], first["next_run_id"]) == ("continued_as_new", "quota", 2)
    assert (second["status"], second["not_before"]) == ("pending", None)  # the pool alone holds it back
    assert second["queue_class"] == first["queue_class"]
    await end(ledger, outbox, 2, Outcome(RunStatus.FAILED, "exit status 1"), replace(SETTINGS, attempts=2))
    assert (await ledger.select("SELECT * FROM runs WHERE id = 3"))[0]["trigger"] == "retry"
    await end(ledger, outbox, 3, Outcome(RunStatus.FAILED, "exit status 1"), replace(SETTINGS, attempts=2))
    assert (await ledger.select("SELECT status FROM runs WHERE id = 3")) == [{"status": "failed"}]


async def test_after_five_waits_in_a_row_the_work_fails(ledger: Ledger, outbox: Outbox) -> None:
    await one_run(ledger)
    for run in range(1, 7):
        await end(ledger, outbox, run, replace(LIMIT, limit_ends_at=None))
    runs = await ledger.select("SELECT status, failure_kind FROM runs ORDER BY id")
    assert [run["status"] for run in runs] == ["continued_as_new"] * 5 + ["failed"]
    assert {run["failure_kind"] for run in runs} == {"quota"}
    [closure] = await closed(ledger)
    assert closure.until == NOW + 32 * HOUR / 4  # 15 minutes, doubled five times


async def test_spent_credit_and_a_cancelled_run_close_nothing(ledger: Ledger, outbox: Outbox) -> None:
    await one_run(ledger)
    await end(ledger, outbox, 1, replace(LIMIT, limit_ends_at=None, permanent=True))
    assert await ledger.select("SELECT status FROM runs") == [{"status": "failed"}]
    assert await closed(ledger) == []


async def test_the_reset_that_a_report_tells_counts_from_the_end_of_the_work(ledger: Ledger, outbox: Outbox) -> None:
    await one_run(ledger)
    outcome = replace(LIMIT, limit_ends_at=None, retry_after=HOUR, ended_at=NOW - 10 * SECOND)
    await end(ledger, outbox, 1, outcome)
    assert [closure.until for closure in await closed(ledger)] == [NOW + HOUR - 10 * SECOND]


async def test_a_pool_is_reported_closed_once_and_open_once(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 30 * SECOND)
    await end(ledger, outbox, 1, LIMIT)
    await end(ledger, outbox, 2, replace(LIMIT, limit_ends_at=NOW + 2 * HOUR))
    await end(ledger, outbox, 3, replace(LIMIT, limit_ends_at=NOW + HOUR))
    assert [(closure.until, closure.run_id) for closure in await closed(ledger)] == [(NOW + 2 * HOUR, 2)]
    assert await opened(ledger, outbox, NOW + HOUR) != []
    [event] = await told(ledger)
    assert (event["event"], event["pool"], event["run_id"], event["agent"]) == ("pool_closed", "max", 1, None)
    until = "2026-11-21T13:00:20.500Z"
    assert event["text"].endswith(f": pool max is closed until {until}: usage limit reached (run 1)")
    assert await opened(ledger, outbox, NOW + 2 * HOUR) == []
    assert [event["event"] for event in await told(ledger)] == ["pool_closed", "pool_opened"]
    assert (await told(ledger))[1]["text"].endswith(": pool max is open again: its limit was reset")
    assert await closed(ledger) == []


async def test_a_login_failure_closes_the_pools_with_a_probe_until_it_passes(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 30 * SECOND)
    await end(ledger, outbox, 1, LOGIN, RunSettings(attempts=3))
    assert await closed(ledger) == []
    await end(ledger, outbox, 2, LOGIN, replace(SETTINGS, attempts=3))
    assert await ledger.select("SELECT status FROM runs WHERE id < 3") == [{"status": "failed"}] * 2
    assert [(one.cause, one.until) for one in await opened(ledger, outbox, NOW + 1000 * HOUR)] == [(Cause.LOGIN, None)]
    await ledger.database.write(lambda tx: open_probed(tx, "max", NOW, PROBED, outbox))
    assert [event["event"] for event in await told(ledger)] == ["failed", "pool_closed", "pool_opened"]


async def test_a_pool_that_a_limit_and_a_login_failure_close_is_open_after_both(ledger: Ledger, outbox: Outbox) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 30 * SECOND)
    await end(ledger, outbox, 1, LIMIT)
    await end(ledger, outbox, 2, LOGIN)
    await end(ledger, outbox, 3, replace(LOGIN, error="still not signed in"))
    assert [closure.run_id for closure in await closed(ledger)] == [1, 2]
    await opened(ledger, outbox, NOW + HOUR)
    assert [event["event"] for event in await told(ledger) if "pool" in event] == ["pool_closed"]
    await ledger.database.write(lambda tx: open_probed(tx, "max", NOW, PROBED, outbox))
    assert [event["event"] for event in await told(ledger) if "pool" in event] == ["pool_closed", "pool_opened"]


async def test_a_person_opens_one_pool_whatever_closes_it_and_with_everything_only_what_is_paused(
    ledger: Ledger, outbox: Outbox
) -> None:
    await one_run(ledger)
    await end(ledger, outbox, 1, LIMIT)

    def pause(tx: Transaction) -> None:
        for pool in (EVERYTHING, "max", "agent:a"):
            pause_pool(tx, pool, NOW, NOW + HOUR, "", "alice")

    await ledger.database.write(pause)
    resumed = await ledger.database.write(lambda tx: resume_pool(tx, EVERYTHING, NOW, "bob", outbox))
    assert {one.pool for one in resumed} == {EVERYTHING, "max", "agent:a"}
    assert [(one.pool, one.cause) for one in await closed(ledger)] == [("max", Cause.LIMIT)]
    await ledger.database.write(pause)
    await ledger.database.write(lambda tx: resume_pool(tx, "max", NOW, "bob", outbox))
    assert {one.pool for one in await closed(ledger)} == {EVERYTHING, "agent:a"}
    assert [event["event"] for event in await told(ledger)] == ["pool_closed", "pool_opened"]  # pauses are no news
    text = "pool max is open again: resumed by bob, but everything is paused by alice until"
    assert text in (await told(ledger))[1]["text"]
    assert await opened(ledger, outbox, NOW + HOUR) == []
    assert len(await told(ledger)) == 2


async def test_a_limit_met_under_a_clock_that_was_ahead_lasts_as_long_as_before(ledger: Ledger, outbox: Outbox) -> None:
    await one_run(ledger)
    later = NOW + 10_000 * HOUR
    await end(ledger, outbox, 1, replace(LIMIT, limit_ends_at=later + HOUR), now=later)
    await ledger.database.write(lambda tx: step_back(tx, NOW))
    assert [(one.since, one.until) for one in await closed(ledger)] == [(NOW, NOW + HOUR)]


async def test_a_limit_that_was_met_again_lasts_no_longer_after_the_clock_was_set_back(
    ledger: Ledger, outbox: Outbox
) -> None:
    await one_run(ledger)
    await end(ledger, outbox, 1, LIMIT)
    again = NOW + 2 * HOUR
    met = Closure("max", Cause.LIMIT, again, again + HOUR / 2, "again", "a", 1)
    await ledger.database.write(lambda tx: close_pool(tx, met))
    await ledger.database.write(lambda tx: step_back(tx, NOW + HOUR))
    assert [(one.since, one.until) for one in await closed(ledger)] == [(NOW + HOUR, NOW + HOUR + HOUR / 2)]


async def test_a_row_that_somebody_edited_badly_ends_at_once(ledger: Ledger, outbox: Outbox) -> None:
    await one_run(ledger)
    await end(ledger, outbox, 1, LIMIT)
    await ledger.database.write(lambda tx: tx.execute("UPDATE pool_closures SET until = 'soon'").fetchall())
    assert await opened(ledger, outbox, NOW) == []


@pytest.mark.parametrize(
    ("pools", "outcome"),
    [(("agent:a", "max"), FireOutcome.SKIPPED_QUOTA), (("agent:a",), FireOutcome.SKIPPED_OVERLAP)],
)
async def test_due_times_while_a_limit_is_used_up_are_skipped_if_wanted(
    ledger: Ledger, outbox: Outbox, pools: Sequence[str], outcome: FireOutcome
) -> None:
    await one_run(ledger)
    await end(ledger, outbox, 1, LIMIT)

    async def decide(now: datetime) -> list[FireOutcome]:
        present = Present(now, ledger.started, frozenset({"a"}), "instance", skipping={"a": pools})
        return [fire.outcome for fire in (await decide_some(ledger.database, present, outbox, 25)).fires]

    assert await decide(NOW) == [outcome]
    [fire] = await ledger.select("SELECT reason FROM fires WHERE outcome LIKE 'skipped%'")
    assert ("pool max is closed until" in fire["reason"]) == (outcome is FireOutcome.SKIPPED_QUOTA)
    await ledger.move(2, RunStatus.RUNNING, RunStatus.COMPLETED)
    ledger.started = NOW + HOUR  # so that the next due time is not one of a gap
    assert FireOutcome.LAUNCHED in await decide(NOW + HOUR)
