"""Budgets: a due time over what its agent may spend in a day is skipped, with the figures."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from daemon.access import Standing
from daemon.allowance import MOST_OF_FIRES
from daemon.clock.alarm import decide_some
from daemon.fires.decision import Decided, Present
from daemon.fires.ledger import Fire
from daemon.model import FireOutcome, RunStatus
from daemon.rules.budget import Budgets, Limits, Spent, calendar_day, exhausted, nearly_spent
from daemon.store.spending import spent_by
from tests.support.api import call
from tests.support.configs import config_text, shell_agent
from tests.support.daemon_process import StartDaemon
from tests.support.ledger import SECOND, START, Ledger
from tests.support.parts import NO_NOTIFICATIONS

HOUR = timedelta(hours=1)
NO_LIMITS = Limits()
REFUSED = """
CREATE TRIGGER refused BEFORE UPDATE OF cursor ON schedules WHEN old.id = (SELECT min(id) FROM schedules)
BEGIN SELECT RAISE(ABORT, 'not today'); END
"""
DAMAGED = """
INSERT INTO schedules (agent, name, source, cron, timezone, overlap, catchup, catchup_window_ms, creator, cursor,
    next_due, wake_at, created_at, updated_at)
SELECT agent, 'damaged', source, 'x', timezone, overlap, catchup, catchup_window_ms, creator, cursor,
    next_due, wake_at, created_at, updated_at FROM schedules
"""


async def decide(ledger: Ledger, now: datetime, limits: Limits, host: Limits = NO_LIMITS) -> list[Fire]:
    present = Present(now, ledger.started, frozenset({"a", "b"}), "instance", Budgets({"a": limits}, host))
    return (await decide_some(ledger.database, present, NO_NOTIFICATIONS, 25)).fires


async def spend(ledger: Ledger, run: int, **usage: float) -> None:
    await ledger.move(run, RunStatus.RUNNING, RunStatus.COMPLETED)
    columns = ", ".join(f"{name} = {value}" for name, value in usage.items())
    await ledger.database.write(lambda tx: tx.execute(f"UPDATE runs SET {columns} WHERE id = ?", (run,)).fetchall())


async def test_runs_beyond_the_days_number_are_skipped_with_the_figures_until_midnight(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    limits = Limits(runs=2)
    fires = [fire for seconds in (10, 20, 30) for fire in await decide(ledger, START + seconds * SECOND, limits)]
    assert [fire.outcome for fire in fires] == ["launched", "launched", "skipped_budget"]
    midnight = "2026-11-22T00:00:00.000Z"
    assert fires[2].reason == f"the daily budget of a is spent: 2 of 2 runs; the next start is due at {midnight}"
    [row] = await ledger.select("SELECT * FROM fires WHERE outcome = 'skipped_budget'")
    assert (row["run_id"], row["reason"]) == (None, fires[2].reason)
    fires = await decide(ledger, datetime(2026, 11, 22, tzinfo=UTC), limits)
    assert [fire.outcome for fire in fires].count(FireOutcome.LAUNCHED) == 2


async def test_money_and_tokens_of_all_attempts_count(ledger: Ledger) -> None:
    await ledger.declare()
    [first] = await decide(ledger, START + 10 * SECOND, Limits(cost_usd=1.0))
    await spend(ledger, first.run_id or 0, cost_usd=1.004, input_tokens=900, output_tokens=100)
    [over] = await decide(ledger, START + 20 * SECOND, Limits(cost_usd=1.0))
    assert over.outcome is FireOutcome.SKIPPED_BUDGET
    assert "1.00 of 1.00 USD" in str(over.reason)
    [over] = await decide(ledger, START + 30 * SECOND, Limits(tokens=1000, cost_usd=5))
    assert "1000 of 1000 tokens;" in str(over.reason)
    [again] = await decide(ledger, START + 40 * SECOND, Limits(tokens=1001))
    assert again.outcome is FireOutcome.LAUNCHED


async def test_all_agents_together_spend_the_budget_of_the_host(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    host = Limits(runs=3)
    await decide(ledger, START + 20 * SECOND, NO_LIMITS, host)
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET agent = 'b' WHERE id = 1").fetchall())
    [third] = await decide(ledger, START + 30 * SECOND, Limits(runs=9), host)
    [fourth] = await decide(ledger, START + 40 * SECOND, Limits(runs=9), host)
    assert (third.outcome, fourth.outcome) == (FireOutcome.LAUNCHED, FireOutcome.SKIPPED_BUDGET)
    again = "the next start is due at 2026-11-22T00:00:00.000Z"
    assert fourth.reason == f"the daily budget of the host is spent: 3 of 3 runs; {again}"
    [fifth] = await decide(ledger, START + 50 * SECOND, Limits(runs=2), host)
    assert str(fifth.reason).startswith("the daily budget of a is spent: 2 of 2 runs")
    [sixth] = await decide(ledger, START + 60 * SECOND, NO_LIMITS, Limits(cost_usd=1.0))
    assert sixth.outcome is FireOutcome.LAUNCHED


@pytest.mark.parametrize(("limits", "host"), [(Limits(runs=2), NO_LIMITS), (NO_LIMITS, Limits(runs=2))])
async def test_what_starts_at_the_same_instant_counts(ledger: Ledger, limits: Limits, host: Limits) -> None:
    others = [f'[agents.a.schedules.{name}]\nevery = "10s"' for name in "tuv"]
    await ledger.declare(*others)
    fires = await decide(ledger, START + 10 * SECOND, limits, host)
    assert sorted(fire.outcome for fire in fires) == ["launched"] * 2 + ["skipped_budget"] * 2


async def test_what_a_schedule_started_that_cannot_be_decided_does_not_count(ledger: Ledger) -> None:
    others = [f'[agents.a.schedules.{name}]\nevery = "10s"' for name in "tu"]
    await ledger.declare(*others)
    await ledger.database.write(lambda tx: tx.execute(REFUSED).fetchall())
    fires = await decide(ledger, START + 10 * SECOND, NO_LIMITS, Limits(runs=2))
    assert [fire.outcome for fire in fires] == ["launched"] * 2


async def test_what_all_agents_spent_is_looked_up_in_the_index(ledger: Ledger) -> None:
    statements: list[str] = []

    def look(connection: sqlite3.Connection) -> list[str]:
        connection.set_trace_callback(statements.append)
        spent_by(connection, None, START, START + HOUR)
        connection.set_trace_callback(None)
        return [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {statements[0]}")]

    plan = await ledger.database.read(look)
    assert any("SEARCH r USING INDEX runs_of_day (agent=? AND created_at>? AND created_at<?)" in step for step in plan)
    assert not any(step.startswith(("SCAN r", "SCAN runs")) for step in plan)


async def test_a_missed_gap_over_budget_is_skipped_as_a_whole(ledger: Ledger) -> None:
    await ledger.declare('catchup = "all"')
    [first] = await decide(ledger, START + 10 * SECOND, Limits(runs=1))
    await spend(ledger, first.run_id or 0, cost_usd=0)
    ledger.started = START + 10 * HOUR
    fires = await decide(ledger, START + 10 * HOUR, Limits(runs=1))
    assert {fire.outcome for fire in fires} == {FireOutcome.SKIPPED_BUDGET}
    assert sum(fire.count for fire in fires) == 3600 - 1


async def test_an_overlap_policy_stops_nothing_for_what_is_over_budget(ledger: Ledger) -> None:
    await ledger.declare('overlap = "terminate_other"')
    await decide(ledger, START + 10 * SECOND, Limits(runs=1))
    [over] = await decide(ledger, START + 20 * SECOND, Limits(runs=1))
    assert over.outcome is FireOutcome.SKIPPED_BUDGET
    assert await ledger.select("SELECT * FROM cancellation_flags") == []


@pytest.mark.parametrize(
    ("zone", "now", "begin", "hours"),
    [
        ("UTC", "2026-11-21T12:00:00+00:00", "2026-11-21T00:00:00+00:00", 24),
        ("Asia/Kolkata", "2026-11-21T18:29:59+00:00", "2026-11-20T18:30:00+00:00", 24),
        ("Asia/Kolkata", "2026-11-21T18:30:00+00:00", "2026-11-21T18:30:00+00:00", 24),
        ("Europe/London", "2026-10-25T12:00:00+00:00", "2026-10-24T23:00:00+00:00", 25),
        ("Europe/London", "2026-03-29T12:00:00+00:00", "2026-03-29T00:00:00+00:00", 23),
    ],
)
def test_a_calendar_day_is_that_of_the_zone(zone: str, now: str, begin: str, hours: int) -> None:
    start = datetime.fromisoformat(begin)
    assert calendar_day(datetime.fromisoformat(now), zone) == (start, start + hours * HOUR)


def test_all_limits_that_are_reached_are_named() -> None:
    assert exhausted(Limits(1, 2.0, 3), Spent(1, 2.5, 3)) == "1 of 1 runs, 2.50 of 2.00 USD, 3 of 3 tokens"
    assert exhausted(Limits(2, 3.0, 4), Spent(1, 2.5, 3)) is None
    assert exhausted(Limits(), Spent(10**6, 1e6, 10**9)) is None


def test_a_budget_is_nearly_spent_from_four_fifths_on() -> None:
    limits = Limits(10, 5.0, 1000)
    assert nearly_spent(limits, Spent(7, 3.99, 799)) is None
    assert nearly_spent(limits, Spent(8, 4.0, 800)) == "8 of 10 runs, 4.00 of 5.00 USD, 800 of 1000 tokens"
    assert nearly_spent(limits, Spent(10, 6.0, 0)) == "6.00 of 5.00 USD"
    assert nearly_spent(Limits(runs=1), Spent(1, 0, 0)) is None
    assert nearly_spent(Limits(), Spent(10**6, 1e6, 10**9)) is None


def test_the_daemon_tells_how_much_of_its_budgets_is_spent(start_daemon: StartDaemon) -> None:
    usage = """echo '{"usage": {"cost_usd": 0.9}}' > $AGENTCRON_RESULT"""
    agent = shell_agent(usage, budget={"runs_per_day": 1, "tokens_per_day": 50})
    daemon = start_daemon(config_text(budget={"cost_usd_per_day": 1.0}, agents={"a": agent}))
    line = daemon.wait_for_log("[run] Budget nearly spent")
    assert line["reason"] == "the daily budget of the host is nearly spent: 0.90 of 1.00 USD"
    daemon.wait_for_row("SELECT * FROM fires WHERE outcome = 'skipped_budget'")
    own, host = call(daemon, "GET", "/status").body["budgets"]
    assert (own["agent"], own["runs"], own["runs_per_day"], own["cost_usd_per_day"]) == ("a", 1, 1, None)
    assert (host["agent"], host["cost_usd"], host["cost_usd_per_day"], host["tokens"]) == (None, 0.9, 1.0, 0)
    shown = " ".join(daemon.cli("status").stdout.split())
    assert "a: 1 of 1 runs, 0 of 50 tokens today" in shown
    assert "the host: 0.90 of 1.00 USD today" in shown


def test_the_daemon_keeps_to_the_budget_of_its_config(start_daemon: StartDaemon) -> None:
    text = '[agents.a]\ncommand = ["true"]\nbudget = { runs_per_day = 2 }\n[agents.a.schedules.s]\nevery = "1s"\n'
    daemon = start_daemon(text)
    row = daemon.wait_for_row("SELECT * FROM fires WHERE outcome = 'skipped_budget'")
    assert "2 of 2 runs" in row["reason"]
    assert daemon.query("SELECT count(*) AS n FROM runs")[0]["n"] == 2
    daemon.wait_for_log("[clock] Fire skipped", outcome="skipped_budget")
    assert "skipped_budget" in daemon.cli("schedules", "history", "a/s").stdout


HUGE = 2**63 - 1


@pytest.mark.parametrize("column", ["input_tokens", "cost_usd"])
async def test_old_rows_with_huge_numbers_exhaust_a_budget_and_stop_nothing(ledger: Ledger, column: str) -> None:
    await ledger.declare('overlap = "allow_all"')
    fires = [fire for seconds in (10, 20, 30) for fire in await decide(ledger, START + seconds * SECOND, Limits(99))]
    for fire in fires:
        await spend(ledger, fire.run_id or 0, **{column: HUGE if column == "input_tokens" else 1e308})
    limits = Limits(tokens=10**9, cost_usd=1e6)
    [over] = await decide(ledger, START + 40 * SECOND, limits)
    assert over.outcome is FireOutcome.SKIPPED_BUDGET
    assert "3000000000" in str(over.reason)
    [again] = await decide(ledger, START + 50 * SECOND, Limits(runs=99))
    assert again.outcome is FireOutcome.LAUNCHED


async def pass_over(ledger: Ledger, now: datetime, standing: Standing, used: float = 0.0) -> Decided:
    claim = ("alice", "a")
    present = Present(now, START, frozenset({"a"}), "instance", standings={claim: standing}, used={"alice": used})
    return await decide_some(ledger.database, present, NO_NOTIFICATIONS, 25)


@pytest.mark.parametrize("guarded", [False, True])
async def test_what_schedules_of_one_creator_start_in_one_pass_is_limited_in_bytes(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, *, guarded: bool
) -> None:
    monkeypatch.setattr("daemon.allowance.MOST_OF_FIRES", 10_000)
    await ledger.declare('overlap = "allow_all"', f'input = "{"x" * 4000}"')
    change = "UPDATE schedules SET creator = 'alice', source = 'created'"
    await ledger.database.write(lambda tx: tx.execute(change).fetchall())
    if guarded:  # another one is damaged
        await ledger.database.write(lambda tx: tx.execute(DAMAGED).fetchall())
    decided = await pass_over(ledger, START + 60 * SECOND, Standing(may_start=True, is_admin=False))
    assert [fire.outcome for fire in decided.fires] == ["launched"] * 3 + ["skipped_budget"] * 3
    assert 12_000 < decided.started["alice"] < 13_500
    assert len(decided.failures) == int(guarded)


async def test_what_others_start_in_the_same_pass_does_not_count(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.allowance.MOST_OF_FIRES", 10_000)
    other = '[agents.a.schedules.t]\nevery = "10s"\noverlap = "allow_all"'
    await ledger.declare('overlap = "allow_all"', f'input = "{"x" * 4000}"', other)
    change = "UPDATE schedules SET creator = 'alice' WHERE name = 't'"
    await ledger.database.write(lambda tx: tx.execute(change).fetchall())
    decided = await pass_over(ledger, START + 60 * SECOND, Standing(may_start=True, is_admin=False))
    assert [fire.outcome for fire in decided.fires] == ["launched"] * 12


async def test_what_was_started_before_counts_for_a_creator_but_not_for_an_administrator(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET creator = 'alice'").fetchall())
    [over] = (
        await pass_over(ledger, START + 10 * SECOND, Standing(may_start=True, is_admin=False), used=MOST_OF_FIRES)
    ).fires
    assert over.outcome is FireOutcome.SKIPPED_BUDGET
    assert str(over.reason).startswith("alice has created schedules that started so many runs that 256.0 MiB of inputs")
    decided = await pass_over(ledger, START + 20 * SECOND, Standing(may_start=True, is_admin=True), used=MOST_OF_FIRES)
    assert [fire.outcome for fire in decided.fires] == ["launched"]
    assert not decided.started


async def test_missed_due_times_beyond_the_limit_are_skipped_as_a_whole(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"', 'catchup = "all"')
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET creator = 'alice'").fetchall())
    now = START + 10 * HOUR
    decided = await pass_over(ledger, now, Standing(may_start=True, is_admin=False), used=MOST_OF_FIRES - 1000)
    outcomes = [fire.outcome for fire in decided.fires]
    assert 1 <= outcomes.count(FireOutcome.LAUNCHED) <= 5
    assert set(outcomes) == {FireOutcome.LAUNCHED, FireOutcome.SKIPPED_BUDGET}
    assert sum(fire.count for fire in decided.fires) == 3600
