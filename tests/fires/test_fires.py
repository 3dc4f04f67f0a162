"""Due times to rows in a real database: overlap, catch-up, summaries, pauses and the clock's steps."""

import json
from datetime import datetime, timedelta
from functools import partial

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon.agents.base import Outcome, RunSettings
from daemon.errors import LimitError
from daemon.fires.backfill import Backfilled, backfill
from daemon.model import Catchup, DueTime, FireOutcome, Overlap, RunStatus
from daemon.runs.finish import finish
from daemon.schedules.revision import Revision, pause_columns, redefine
from daemon.store.connection import Transaction
from daemon.store.run_queue import startable
from daemon.store.schedules import ScheduleRow, get_schedule
from daemon.store.state_dir import open_state
from daemon.units import format_instant
from tests.support.ledger import SECOND, START, Ledger, due
from tests.support.parts import NO_NOTIFICATIONS


async def outcomes(ledger: Ledger) -> list[tuple[str, str]]:
    return [(row["scheduled_for"], row["outcome"]) for row in await ledger.rows()]


async def test_a_due_time_has_one_row_and_one_run_however_often_it_is_decided(ledger: Ledger) -> None:
    await ledger.declare('input = "hi"', 'metadata = { team = "x" }')
    assert await ledger.decide(START + 9 * SECOND) == []
    fires = await ledger.decide(START + 10 * SECOND)
    assert [(fire.outcome, fire.run_id) for fire in fires] == [(FireOutcome.LAUNCHED, 1)]
    assert await ledger.decide(START + 10 * SECOND) == []
    [run] = await ledger.select("SELECT * FROM runs")
    assert run["name"] == f"scheduled-run:1:{due(10)}"
    assert run["display_name"] == "Scheduled Message: s · 2026-11-21 12:00 UTC"
    assert json.loads(run["task_metadata"]) == {
        "team": "x",
        "display_name": run["display_name"],
        "schedule_id": 1,
        "scheduled_fire_id": f"1:{due(10)}",
        "trigger_type": "scheduled",
        "fire_time": due(10),
    }


async def test_metadata_may_set_the_display_name(ledger: Ledger) -> None:
    await ledger.declare('metadata = { display_name = "Nightly triage" }')
    await ledger.decide(START + 10 * SECOND)
    assert (await ledger.select("SELECT display_name FROM runs"))[0]["display_name"] == "Nightly triage"


@pytest.mark.parametrize(
    ("policy", "expected"),
    [
        ("skip", ["launched", "skipped_overlap", "skipped_overlap"]),
        ("buffer_one", ["launched", "buffered", "skipped_overlap"]),
        ("buffer_all", ["launched", "buffered", "buffered"]),
        ("cancel_other", ["launched", "launched", "launched"]),
        ("terminate_other", ["launched", "launched", "launched"]),
        ("allow_all", ["launched", "launched", "launched"]),
    ],
)
async def test_overlap_policies(ledger: Ledger, policy: str, expected: list[str]) -> None:
    await ledger.declare(f'overlap = "{policy}"')
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    await ledger.decide(START + 30 * SECOND)
    assert [outcome for _, outcome in await outcomes(ledger)] == expected
    flags = await ledger.select("SELECT run_id, at_once FROM cancellation_flags ORDER BY run_id")
    stopped = {"cancel_other": [(1, 0), (2, 0)], "terminate_other": [(1, 1), (2, 1)]}.get(policy, [])
    assert [(flag["run_id"], flag["at_once"]) for flag in flags] == stopped


async def test_no_more_than_a_thousand_wait(ledger: Ledger) -> None:
    await ledger.declare('overlap = "buffer_all"', every="1s")
    for seconds in range(1, 1003, 50):
        await ledger.decide(START + min(seconds + 49, 1003) * SECOND)
    counts = await ledger.select("SELECT outcome, count(*) AS n FROM fires GROUP BY 1 ORDER BY 1")
    assert [(row["outcome"], row["n"]) for row in counts] == [
        ("buffered", 1000),
        ("launched", 1),
        ("skipped_overlap", 2),
    ]


async def test_a_little_late_is_not_missed(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 60 * SECOND)
    assert {outcome for _, outcome in await outcomes(ledger)} == {"launched"}
    assert {row["trigger"] for row in await ledger.select("SELECT trigger FROM runs")} == {"scheduled"}


@pytest.mark.parametrize(
    ("policy", "window", "started"),
    [
        ("latest", "24h", [290]),
        ("none", "24h", []),
        ("all", "24h", list(range(10, 300, 10))),
        ("all", "60s", list(range(240, 300, 10))),
        ("latest", "1s", []),
    ],
)
async def test_catch_up_after_the_daemon_was_away(ledger: Ledger, policy: str, window: str, started: list[int]) -> None:
    await ledger.declare(f'catchup = "{policy}"', f'catchup_window = "{window}"', 'overlap = "allow_all"')
    ledger.started = START + 295 * SECOND
    await ledger.decide(START + 295 * SECOND)
    rows = await outcomes(ledger)
    assert [at for at, outcome in rows if outcome == "launched"] == [due(seconds) for seconds in started]
    assert len(rows) == 29
    assert {outcome for _, outcome in rows} <= {"launched", "skipped_missed"}
    assert {row["trigger"] for row in await ledger.select("SELECT trigger FROM runs")} <= {"catchup"}
    assert all(row["reason"] for row in await ledger.rows() if row["outcome"] == "skipped_missed")


async def test_catch_ups_obey_overlap_in_due_order(ledger: Ledger) -> None:
    await ledger.declare('catchup = "all"', 'overlap = "buffer_one"')
    ledger.started = START + 95 * SECOND
    await ledger.decide(START + 95 * SECOND)
    found = [outcome for _, outcome in await outcomes(ledger)]
    assert found == ["launched", "buffered"] + ["skipped_overlap"] * 7


async def test_many_missed_due_times_share_one_row(ledger: Ledger) -> None:
    await ledger.declare(every="1s")
    ledger.started = now = START + timedelta(days=3650)
    await ledger.decide(now)
    summary, launched = await ledger.rows()
    many = 3650 * 86400
    assert (summary["scheduled_for"], summary["covers_until"]) == (due(1), due(many - 1))
    assert (summary["covers_count"], summary["outcome"]) == (many - 1, "skipped_missed")
    assert (launched["scheduled_for"], launched["outcome"]) == (due(many), "launched")


async def test_a_thousand_missed_due_times_have_their_own_rows(ledger: Ledger) -> None:
    await ledger.declare('catchup = "none"', every="1s")
    ledger.started = START + 1000 * SECOND
    await ledger.decide(ledger.started)
    rows = await ledger.rows()
    assert len(rows) == 1000
    assert not any(row["covers_count"] for row in rows)


async def test_catching_up_on_thousands_that_overlap_stays_short(ledger: Ledger) -> None:
    await ledger.declare('catchup = "all"', every="1s")
    ledger.started = START + 5000 * SECOND
    await ledger.decide(ledger.started)
    launched, summary = await ledger.rows()
    assert launched["outcome"] == "launched"
    assert (summary["outcome"], summary["covers_count"]) == ("skipped_overlap", 4999)


async def test_a_vanished_agent_and_a_requested_skip_have_their_rows(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND, agents=())
    await ledger.database.write(
        lambda tx: tx.execute("INSERT INTO schedule_skips VALUES (1, ?, 'x', 'root')", (due(20),))
    )
    await ledger.decide(START + 20 * SECOND)
    assert [outcome for _, outcome in await outcomes(ledger)] == ["skipped_agent_deleted", "skipped_requested"]
    assert await ledger.select("SELECT * FROM schedule_skips") == []


async def test_a_backfill_is_checked_after_each_run_and_starts_nothing_if_one_is_too_much(ledger: Ledger) -> None:
    await ledger.declare(f'input = "{"x" * 1000}"', 'catchup = "none"')
    sizes: list[int] = []
    now = START + 100 * SECOND
    row = await ledger.database.read(lambda c: get_schedule(c, "a", "s"))
    assert row is not None
    start = partial(backfill, principal="x", now=now, oldest=None, instance="x")

    async def asked(most: int) -> Backfilled:
        def run(tx: Transaction) -> Backfilled:
            def check() -> None:
                sizes.append(tx.changes.run_bytes)
                if sizes[-1] > most:
                    raise LimitError("too much")

            return start(tx, row, (START, now), Overlap.ALLOW_ALL, check=check)

        return await ledger.database.write(run)

    with pytest.raises(LimitError):
        await asked(5_000)
    assert len(sizes) == 4
    assert sizes[0] > 1_200
    assert await ledger.select("SELECT * FROM runs") == []
    assert len((await asked(20_000)).runs) == 10


async def test_a_backfill_leaves_the_clock_what_jitter_has_yet_to_start(ledger: Ledger) -> None:
    await ledger.declare('jitter = "5s"')
    row = await ledger.database.read(lambda c: get_schedule(c, "a", "s"))
    assert row is not None
    first = row.cadence.next_after(START)
    assert first is not None
    start = row.cadence.start_of(first, row.address)
    assert start > first

    async def asked(now: datetime) -> Backfilled:
        span = (first, now)
        return await ledger.database.write(
            lambda tx: backfill(tx, row, span, Overlap.SKIP, principal="x", now=now, oldest=None, instance="x")
        )

    assert (await asked(start - timedelta(milliseconds=1))).runs == []
    assert await ledger.rows() == []
    assert (await asked(start)).runs == [1]


async def jittered(ledger: Ledger) -> tuple[ScheduleRow, DueTime, datetime]:
    """Declare a schedule with jitter; return it, its first due time, and an instant between that and its start."""
    await ledger.declare('jitter = "5s"')
    row = await ledger.database.read(lambda c: get_schedule(c, "a", "s"))
    assert row is not None
    first = row.cadence.next_after(START)
    assert first is not None
    between = first + (row.cadence.start_of(first, row.address) - first) / 2
    await ledger.decide(between)
    assert await ledger.rows() == []
    return row, first, between


async def test_a_new_end_does_not_skip_a_due_time_that_has_come(ledger: Ledger) -> None:
    row, first, between = await jittered(ledger)
    end = format_instant(START + timedelta(days=365))
    revision = Revision("x", "update", {"end_at": [None, end]})
    await ledger.database.write(lambda tx: redefine(tx, row, {"end_at": end}, between, revision))
    await ledger.decide(START + 19 * SECOND)
    assert await outcomes(ledger) == [(format_instant(first), "launched")]


async def test_a_new_cadence_skips_a_pending_due_time_that_it_does_not_have(ledger: Ledger) -> None:
    row, first, between = await jittered(ledger)
    revision = Revision("x", "update", {"every_ms": [10_000, 7_000]})
    await ledger.database.write(lambda tx: redefine(tx, row, {"every_ms": 7_000}, between, revision))
    assert [(row["scheduled_for"], row["outcome"]) for row in await ledger.rows()] == [
        (format_instant(first), "skipped_missed")
    ]


async def test_a_pause_covers_a_due_time_whose_jitter_it_stops(ledger: Ledger) -> None:
    row, first, between = await jittered(ledger)
    paused = await ledger.database.write(
        lambda tx: redefine(tx, row, pause_columns(None, between, paused=True), between, Revision("x", "pause"))
    )
    await ledger.database.write(
        lambda tx: redefine(tx, paused, pause_columns(None, between, paused=False), between, Revision("x", "resume"))
    )
    assert await outcomes(ledger) == [(format_instant(first), "skipped_paused")]
    assert await ledger.decide(START + 19 * SECOND) == []


async def leave_out(ledger: Ledger, *seconds: int) -> None:
    rows = [(due(at),) for at in seconds]
    await ledger.database.write(
        lambda tx: [tx.execute("INSERT INTO schedule_skips VALUES (1, ?, 'x', 'root')", row) for row in rows]
    )


async def test_a_requested_skip_in_a_missed_gap_has_its_own_reason(ledger: Ledger) -> None:
    await ledger.declare()
    await leave_out(ledger, 20, 25, 60, 70)
    ledger.started = START + 60 * SECOND
    await ledger.decide(START + 60 * SECOND)
    assert [outcome for _, outcome in await outcomes(ledger)] == [
        "skipped_missed",
        "skipped_requested",
        "skipped_missed",
        "skipped_missed",
        "launched",  # the latest that nobody wanted left out
        "skipped_requested",
    ]
    assert [row["scheduled_for"] for row in await ledger.select("SELECT * FROM schedule_skips")] == [due(70)]


async def test_a_requested_skip_stands_beside_the_summary_of_its_gap(ledger: Ledger) -> None:
    await ledger.declare('catchup = "none"')
    await leave_out(ledger, 10, 5000)
    ledger.started = START + 15000 * SECOND
    await ledger.decide(START + 15000 * SECOND)
    assert [(row["outcome"], row["covers_count"]) for row in await ledger.rows()] == [
        ("skipped_requested", None),
        ("skipped_missed", 1498),
        ("skipped_requested", None),
    ]
    assert await ledger.select("SELECT * FROM schedule_skips") == []


async def test_a_requested_skip_ends_with_the_pause_that_covers_it(ledger: Ledger) -> None:
    await ledger.declare("paused = true")
    await leave_out(ledger, 20)
    await ledger.declare("paused = false", at=START + 105 * SECOND)
    assert [row["outcome"] for row in await ledger.rows()] == ["skipped_paused"]
    assert await ledger.select("SELECT * FROM schedule_skips") == []


@pytest.mark.parametrize(
    "damage", ["every_ms = NULL, cron = 'nonsense'", "task_metadata = '[]'", "cursor = 'yesterday'", "wake_at = ''"]
)
async def test_one_schedule_in_trouble_does_not_stop_the_others(ledger: Ledger, damage: str) -> None:
    await ledger.declare()
    columns = "source, every_ms, timezone, overlap, catchup, catchup_window_ms, creator, cursor, next_due, wake_at"
    await ledger.database.write(
        lambda tx: tx.execute(
            f"INSERT INTO schedules (agent, name, created_at, updated_at, {columns}) "
            f"SELECT 'a', 'broken', created_at, updated_at, {columns} FROM schedules"
        )
    )
    await ledger.database.write(lambda tx: tx.execute(f"UPDATE schedules SET {damage} WHERE name = 'broken'"))
    if damage == "wake_at = ''":  # all that is needed to decide it is there
        assert len(await ledger.decide(START + 10 * SECOND)) == 2
        return
    fires = await ledger.decide(START + 10 * SECOND)
    assert [(fire.schedule, fire.outcome) for fire in fires] == [("s", FireOutcome.LAUNCHED)]
    assert [schedule for schedule, _ in ledger.failures] == ["a/broken"]
    assert len(await ledger.decide(START + 20 * SECOND)) == 1
    assert len(ledger.failures) == 1


# declared schedules


async def test_declaring_again_changes_nothing(ledger: Ledger) -> None:
    assert [change.action for change in await ledger.declare()] == ["created"]
    assert await ledger.declare(at=START + SECOND) == []
    assert len(await ledger.select("SELECT * FROM schedule_revisions")) == 1


async def test_a_pause_in_the_file_does_not_swallow_what_was_due_before_it(ledger: Ledger) -> None:
    await ledger.declare()
    later = START + 35 * SECOND  # the daemon was away
    await ledger.declare("paused = true", at=later)
    rows = await ledger.rows()
    assert [(row["scheduled_for"], row["outcome"]) for row in rows] == [
        (due(after), "skipped_missed") for after in (10, 20, 30)
    ]
    await ledger.declare(at=later + 20 * SECOND)
    assert [row["outcome"] for row in (await ledger.rows())[3:]] == ["skipped_paused"]


async def test_a_revival_says_what_it_changed(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.declare("nothing", at=START + SECOND)
    await ledger.declare('description = "anew"', at=START + 2 * SECOND, every="20s")
    [revision] = await ledger.select("SELECT changes FROM schedule_revisions WHERE action = 'revive'")
    assert json.loads(revision["changes"]) == {"every_ms": [10_000, 20_000], "description": ["", "anew"]}


async def test_a_changed_cadence_starts_from_the_change(ledger: Ledger) -> None:
    await ledger.declare()
    [change] = await ledger.declare('cron = "* * * * *"', at=START + 300 * SECOND)
    assert (change.action, sorted(change.changes)) == ("changed", ["cron", "every"])
    ledger.started = START + 300 * SECOND
    await ledger.decide(START + 360 * SECOND)
    found = await outcomes(ledger)
    assert found == [(due(10 * n), "skipped_missed") for n in range(1, 31)] + [(due(360), "launched")]
    assert "cadence was changed" in (await ledger.rows())[0]["reason"]
    [schedule] = await ledger.select("SELECT * FROM schedules")
    assert schedule["version"] == 2


async def test_another_input_keeps_due_times_that_have_not_been_decided(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.declare('input = "new"', at=START + 15 * SECOND)
    await ledger.decide(START + 15 * SECOND)
    assert await outcomes(ledger) == [(due(10), "launched")]


async def test_a_schedule_out_of_the_file_is_retired_and_put_back_revives(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING, RunStatus.COMPLETED)
    assert [change.action for change in await ledger.declare("nothing", at=START + 11 * SECOND)] == ["retired"]
    assert await ledger.decide(START + 100 * SECOND) == []
    assert [change.action for change in await ledger.declare(at=START + 101 * SECOND)] == ["revived"]
    await ledger.decide(START + 110 * SECOND)
    assert await outcomes(ledger) == [(due(10), "launched"), (due(110), "launched")]
    assert {row["schedule_id"] for row in await ledger.rows()} == {1}


async def test_a_pause_in_the_file_ends_with_one_row(ledger: Ledger) -> None:
    await ledger.declare("paused = true")
    assert await ledger.decide(START + 100 * SECOND) == []
    await ledger.declare("paused = false", at=START + 105 * SECOND)
    ledger.started = START + 105 * SECOND
    await ledger.decide(START + 110 * SECOND)
    pause, launched = await ledger.rows()
    assert (pause["outcome"], pause["covers_count"], pause["scheduled_for"]) == ("skipped_paused", 10, due(10))
    assert (launched["outcome"], launched["scheduled_for"]) == ("launched", due(110))


async def test_what_was_due_before_a_schedule_was_taken_out_has_its_row(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.declare("nothing", at=START + 25 * SECOND)
    assert await outcomes(ledger) == [(due(10), "skipped_missed"), (due(20), "skipped_missed")]


async def test_a_change_during_a_pause_forgets_none_of_it(ledger: Ledger) -> None:
    await ledger.declare("paused = true")
    await ledger.declare("paused = true", 'jitter = "1s"', at=START + 50 * SECOND)
    await ledger.declare("paused = false", 'jitter = "1s"', at=START + 105 * SECOND)
    [pause] = await ledger.rows()
    assert (pause["outcome"], pause["covers_count"]) == ("skipped_paused", 10)


async def test_a_buffered_run_waits_for_the_further_attempts_of_the_one_before(ledger: Ledger) -> None:
    await ledger.declare('overlap = "buffer_one"')
    await ledger.decide(START + 20 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    failed = Outcome(RunStatus.FAILED, "exit status 1")
    again = RunSettings(attempts=2, retry_delay_seconds=60)
    await ledger.database.write(
        lambda tx: finish(tx, 1, failed, again, START, instance="x", chance=0.5, outbox=NO_NOTIFICATIONS)
    )
    later = START + 3600 * SECOND
    heads = await ledger.database.write(lambda tx: [run.id for run in startable(tx, START + 30 * SECOND, [], 10)[0]])
    assert heads == []
    [attempt] = await ledger.database.write(lambda tx: startable(tx, later, [], 10)[0])
    assert (attempt.id, attempt.trigger) == (3, "retry")
    [written] = await ledger.select("SELECT task_metadata FROM runs WHERE id = 3")
    assert json.loads(written["task_metadata"])["trigger_type"] == "retry"


async def test_the_paused_line_counts_only_when_it_changes(ledger: Ledger) -> None:
    await ledger.declare("paused = false")
    await ledger.database.write(
        lambda tx: tx.execute("UPDATE schedules SET paused = 1, paused_at = ?", (format_instant(START),))
    )
    await ledger.declare("paused = false", 'description = "new"', at=START + SECOND)
    assert (await ledger.select("SELECT paused FROM schedules"))[0]["paused"] == 1


# against a plain oracle


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], max_examples=30)
@given(
    st.sampled_from(Overlap),
    st.sampled_from(Catchup),
    st.lists(st.tuples(st.integers(1, 200), st.booleans(), st.booleans()), min_size=1, max_size=8),
)
async def test_decisions_equal_an_oracle_over_random_histories(
    tmp_path_factory: pytest.TempPathFactory, overlap: Overlap, catchup: Catchup, history: list[tuple[int, bool, bool]]
) -> None:
    folder = tmp_path_factory.mktemp("history")
    async with open_state(folder, START, accept_data_loss=False) as database:
        ledger = Ledger(database, folder)
        await ledger.declare(f'overlap = "{overlap}"', f'catchup = "{catchup}"', 'catchup_window = "100s"')
        now, decided = START, 0
        active: list[int] = []
        expected: list[str] = []
        for wait, finish, restart in history:
            now += wait * SECOND
            if finish:
                for run_id in active:
                    await ledger.move(run_id, RunStatus.RUNNING, RunStatus.COMPLETED)
                active = []
            if restart:
                ledger.started = now
            until = int((now - START).total_seconds() + 0.5)
            dues = list(range(decided + 10, until + 1, 10))
            decided = until // 10 * 10
            limit = max(ledger.started, now - timedelta(seconds=60))
            missed = [seconds for seconds in dues if _at(seconds) < limit]
            young = [seconds for seconds in missed if _at(seconds) >= now - timedelta(seconds=100)]
            caught_up = {Catchup.NONE: [], Catchup.LATEST: [d for d in missed[-1:] if d in young], Catchup.ALL: young}[
                catchup
            ]
            if (catchup, overlap) == (Catchup.LATEST, Overlap.SKIP) and dues[len(missed) :]:
                caught_up = []  # one that is only late starts instead
            for seconds in dues:
                if seconds in missed and seconds not in caught_up:
                    expected.append("skipped_missed")
                    continue
                outcome, started = _oracle(overlap, len(active))
                expected.append(outcome)
                if started:
                    active.append(sum(word in {"launched", "buffered"} for word in expected))
            await ledger.decide(now)
        assert [outcome for _, outcome in await outcomes(ledger)] == expected


def _at(seconds: int) -> datetime:
    return START.replace(microsecond=0) + seconds * SECOND


def _oracle(policy: Overlap, active: int) -> tuple[str, bool]:
    """Say in plain words what section 3 of the contract says of overlap."""
    if active == 0 or policy in {Overlap.ALLOW_ALL, Overlap.CANCEL_OTHER, Overlap.TERMINATE_OTHER}:
        return "launched", True
    if policy is Overlap.BUFFER_ALL or (policy is Overlap.BUFFER_ONE and active == 1):
        return "buffered", True
    return "skipped_overlap", False


@pytest.mark.parametrize(
    ("lines", "started", "reason"),
    [
        ((), [40], "a newer due time has come since"),
        (('overlap = "allow_all"',), [30, 40, 50, 60, 70, 80, 90], "only the latest missed"),
        (('catchup = "all"',), [10], "unfinished"),
    ],
)
async def test_a_due_time_that_is_only_late_wins_over_a_stale_catch_up(
    ledger: Ledger, lines: tuple[str, ...], started: list[int], reason: str
) -> None:
    await ledger.declare(*lines)
    await ledger.decide(START + 90 * SECOND)  # what is late by more than a minute was missed
    rows = await ledger.rows()
    assert [row["scheduled_for"] for row in rows if row["outcome"] == "launched"] == [due(at) for at in started]
    assert len(rows) == 9
    assert any(reason in (row["reason"] or "") for row in rows)
