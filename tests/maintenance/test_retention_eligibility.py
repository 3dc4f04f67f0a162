"""Which runs, fires and schedules a sweep deletes, and what goes with them."""

import asyncio
import contextlib
import sqlite3
from pathlib import Path
from typing import Any

import pytest

from daemon.model import DATABASE, RunStatus
from daemon.store.group_commit import Closure
from daemon.store.retention import last_sweep
from daemon.store.state_dir import open_state
from daemon.views.sweeps import ForecastView, retention_view
from tests.support.retention_history import ACTIVE, AGENTS, NOW, TABLES, History, ago

TERMINAL = ("completed", "failed", "cancelled", "interrupted")


async def forecast(history: History) -> ForecastView:
    view = retention_view(await history.retention().forecast(), dry_run=True)["would_delete"]
    assert view is not None
    return view


@pytest.mark.parametrize("status", ACTIVE)
async def test_an_active_run_is_never_deleted(history: History, status: str) -> None:
    run = await history.run(status, 4000)
    assert (await history.retention().sweep()).deleted == 0
    assert await history.runs() == [run]


async def test_each_terminal_status_is_deleted(history: History) -> None:
    for status in TERMINAL:
        await history.run(status)
    old = await history.run("continued_as_new")
    await history.run("failed", previous=old)
    assert {*TERMINAL, *ACTIVE, "continued_as_new"} == {status.value for status in RunStatus}
    assert (await history.retention().sweep()).deleted == 6
    assert (await history.retention().sweep()).deleted == 0


async def test_the_cutoff_itself_stays(history: History) -> None:
    at_it = await history.run(days=30)
    just_before = await history.run(days=30 + 0.001 / 86400)
    assert just_before
    await history.retention().sweep()
    assert await history.runs() == [at_it]


async def test_offsets_are_compared_as_instants(history: History) -> None:
    cutoff = "2026-10-22T12:00:00"
    young = [
        await history.run(updated_at=text)
        for text in (f"{cutoff}Z", "2026-10-22T02:00:01-10:00", "2026-10-23T02:00:00+14:00", "no time", "2026-01-01")
    ]
    for text in ("2026-10-22T11:59:59.999Z", "2026-10-22T01:59:59-10:00", "2026-10-23T01:59:59+14:00"):
        await history.run(updated_at=text)
    assert (await history.retention().sweep()).deleted == 3
    assert await history.runs() == young


async def test_all_that_belongs_to_a_run_goes_and_nothing_of_others(history: History, tmp_path: Path) -> None:
    old, young = await history.run(), await history.run(days=1)
    for run in (old, young):
        await history.attach(run)
    swept = await history.retention().sweep()
    assert (swept.deleted, swept.folders) == (1, 1)
    for table in TABLES:
        assert await history.query(f"SELECT run_id FROM {table}") == [young], table
    assert [entry.name for entry in (tmp_path / "state/runs").iterdir() if entry.name.isdigit()] == [str(young)]
    assert await history.query("PRAGMA foreign_key_check") == []


async def test_no_later_run_gets_rows_of_a_deleted_run(history: History) -> None:
    old = await history.run()
    await history.attach(old)
    await history.retention().sweep()
    new = await history.run("running", 0)
    assert new > old
    for table in TABLES:
        assert await history.query(f"SELECT run_id FROM {table}") == []


async def test_the_newest_of_each_schedule_stay(history: History) -> None:
    await history.schedule(2)
    first = [await history.run(schedule=1) for _ in range(4)]
    second = [await history.run(schedule=2) for _ in range(1)]
    manual = await history.run()
    await history.run("running", 0, schedule=1)
    await history.retention("[retention]\ndays = 30\nkeep_last = 2\n").sweep()
    assert await history.runs() == [*first[2:], *second, manual + 1]


async def test_an_agent_has_its_own_retention(history: History) -> None:
    await history.schedule(2, "b")
    a = await history.run(days=10)
    b = [await history.run(days=10, agent="b", schedule=2) for _ in range(2)]
    gone = await history.run(days=40, agent="gone")
    agents = f"{AGENTS}[agents.b.retention]\ndays = 7\nkeep_last = 1\n"
    assert (await history.retention("", agents).sweep()).deleted == 1
    assert await history.runs() == [a, b[1], gone]
    assert (await history.retention(agents=agents).sweep()).deleted == 1
    assert await history.runs() == [a, b[1]]


async def test_attempts_go_together_when_the_newest_is_old_enough(history: History) -> None:
    chains = []
    for days in (40, 20):
        first = await history.run("continued_as_new", 60)
        second = await history.run("continued_as_new", 50, previous=first)
        chains.append([first, second, await history.run("failed", days, previous=second)])
    await history.retention().sweep()
    assert await history.runs() == chains[1]


@pytest.mark.parametrize("status", ACTIVE)
async def test_what_an_active_attempt_refers_to_stays_and_others_go(history: History, status: str) -> None:
    parent = await history.run("failed", 400)
    middle = await history.run("failed", 300, previous=parent)
    child = await history.run(status, 200, previous=middle)
    other = await history.run("failed", 400)
    stays = await history.run(status, 200)
    await history.execute("UPDATE runs SET next_run_id = ? WHERE id = ?", stays, other)
    await history.run(days=400)
    assert (await history.retention().sweep()).deleted == 1
    assert await history.runs() == [parent, middle, child, other, stays]


async def test_attempts_of_which_a_person_keeps_or_the_policy_spares_one_stay(history: History) -> None:
    first = await history.run("continued_as_new", 60, schedule=1)
    second = await history.run("failed", 50, previous=first, schedule=1)
    await history.retention("[retention]\ndays = 30\nkeep_last = 1\n").sweep()
    assert await history.runs() == [first, second]


async def test_fires_go_by_age_and_the_newest_of_a_live_schedule_stays(history: History) -> None:
    await history.schedule(2)
    await history.schedule(3, deleted=60)
    run = await history.run(days=50)
    for schedule in (1, 2, 3):
        for days in (90, 60, 50):
            await history.fire(schedule, days, run=run if (schedule, days) == (2, 50) else None)
    young = await history.fire(1, 20)
    swept = await history.retention().sweep()
    assert swept.fires == 8
    assert await history.query("SELECT schedule_id, scheduled_for, run_id FROM fires") == [
        (1, young, None),
        (2, ago(50), None),
    ]
    assert await history.query("PRAGMA foreign_key_check") == []


async def test_many_fires_go_page_by_page(history: History) -> None:
    await history.execute(
        "WITH RECURSIVE n (i) AS (VALUES (1) UNION ALL SELECT i + 1 FROM n WHERE i < 5000) "
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, decided_at) "
        "SELECT 1, strftime('%Y-%m-%dT%H:%M:%fZ', '2026-01-01', '+' || i || ' minutes'), 'skipped_overlap', 'x', ?1 "
        "FROM n",
        ago(100),
    )
    assert (await forecast(history))["fires"] == 4999
    assert (await history.retention().sweep()).fires == 4999


async def test_a_summary_is_as_old_as_the_last_that_it_covers(history: History) -> None:
    await history.fire(1, 90, until=20)
    await history.fire(1, 10)
    assert (await history.retention().sweep()).fires == 0


async def test_a_fire_that_was_decided_lately_or_whose_run_is_active_stays(history: History) -> None:
    run = await history.run("suspended", 50)
    await history.fire(1, 60)
    await history.execute("UPDATE fires SET decided_at = ?", ago(1))
    await history.fire(1, 50, run=run)
    await history.fire(1, 10)
    assert (await history.retention().sweep()).fires == 0


async def test_a_deleted_schedule_goes_when_nothing_of_it_is_left(history: History) -> None:
    for number, deleted in ((2, 60), (3, 20), (4, 60)):
        await history.schedule(number, deleted=deleted)
        for version, days in ((1, 90), (2, deleted)):
            at = ago(days)
            await history.execute(
                "INSERT INTO schedule_revisions VALUES (?, ?, ?, 'x', 'x', '{}', NULL)", number, version, at
            )
    await history.execute("INSERT INTO schedule_skips VALUES (2, ?, ?, 'root')", ago(60), ago(60))
    await history.execute("INSERT INTO sessions (schedule_id, holder) VALUES (2, 1)")
    await history.revision(1, 1, 400)
    for subject in ("schedule:1", "schedule:2", "blocked:1", "blocked:2"):
        problem = "INSERT INTO notify_states (subject, state, since, told_at, gap_ms) VALUES (?, 'denied', ?, ?, 1)"
        await history.execute(problem, subject, ago(60), ago(60))
    run = await history.run(days=1, schedule=4)
    assert (await history.retention().sweep()).schedules == 1
    assert await history.query("SELECT subject FROM notify_states ORDER BY 1") == ["blocked:1", "schedule:1"]
    assert await history.query("SELECT id FROM schedules") == [1, 3, 4]
    assert await history.query("SELECT schedule_id, version FROM schedule_revisions") == [(1, 1), (3, 2)]
    assert await history.query("SELECT * FROM schedule_skips") == []
    assert await history.query("SELECT * FROM sessions") == []
    assert await history.runs() == [run]
    assert await history.query("PRAGMA foreign_key_check") == []


async def test_without_days_everything_stays_and_the_sweep_says_so(history: History) -> None:
    run = await history.run(days=9000)
    await history.attach(run)
    swept = await history.retention("").sweep()
    assert (swept.deleted, swept.skipped) == (0, True)
    assert await history.runs() == [run]
    assert history.figure('retention_sweeps_total{result="skipped"}') == 1


async def test_a_dry_run_names_what_would_be_removed_and_changes_nothing(history: History) -> None:
    runs = [await history.run(days=days, schedule=1) for days in (90, 60, 1)]
    await history.attach(runs[0])
    await history.fire(1, 90)
    await history.fire(1, 60)
    before = await history.query("SELECT commits FROM instance")
    found = await forecast(history)
    assert (found["runs"], found["fires"], found["folders"], found["run_ids"]) == (2, 1, 1, runs[:2])
    assert found["bytes"] >= 10_000
    [group] = found["groups"]
    assert group == {
        "agent": "a",
        "schedule": "s1",
        "runs": 2,
        "oldest": ago(90),
        "newest": ago(60),
        "bytes": found["bytes"],
    }
    assert await history.runs() == runs
    assert await history.query("SELECT commits FROM instance") == before


async def test_keys_are_followed_again_after_a_sweep_and_after_one_that_failed(history: History) -> None:
    def fail(_: object) -> None:
        raise ValueError("in mid-sweep")

    await history.run()
    await history.retention().sweep()
    with pytest.raises(ValueError, match="in mid-sweep"):
        await history.database.write_without_keys(fail)
    with pytest.raises(sqlite3.IntegrityError):
        await history.execute("INSERT INTO events (run_id, number, at, type) VALUES (99, 1, 'x', 'x')")
    pages = await history.database._writer.run(lambda c: c.execute("PRAGMA wal_autocheckpoint").fetchone()[0])
    assert pages == 1000


async def test_sweeps_wait_for_each_other(history: History) -> None:
    for _ in range(300):
        await history.run()
    retention = history.retention()
    first, second = await asyncio.gather(retention.sweep(), retention.sweep())
    assert (first.deleted, second.deleted) == (300, 0)


async def test_a_reload_takes_effect_at_once_even_during_a_sweep(history: History) -> None:
    for _ in range(600):
        await history.run()
    await history.attach(1)
    retention, real = history.retention(), history.database.write_without_keys

    async def and_reload(closure: Closure[Any]) -> Any:  # noqa: ANN401 - what the closure gives
        result = await real(closure)
        history.live.replace(history.config(""))
        return result

    history.database.write_without_keys = and_reload  # type: ignore[method-assign]
    swept = await retention.sweep()
    assert 0 < swept.deleted < 600
    assert len(await history.runs()) == 600 - swept.deleted
    assert not (history.state_dir / "runs/1").exists(), "what went is wholly gone"


async def test_a_database_that_cannot_release_pages_does_not_block_a_sweep(tmp_path: Path) -> None:
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    open_state(state_dir, NOW, accept_data_loss=False)
    with contextlib.closing(sqlite3.connect(state_dir / DATABASE)) as connection:  # as from a dump
        connection.executescript("PRAGMA journal_mode = DELETE; PRAGMA auto_vacuum = NONE; VACUUM")
    async with open_state(state_dir, NOW, accept_data_loss=False) as database:
        history = History(database, state_dir)
        for _ in range(200):
            run = await history.run()
            await history.execute("UPDATE runs SET input_content = ? WHERE id = ?", "x" * 10_000, run)
        assert (await history.retention().sweep()).deleted == 200


async def test_a_long_chain_of_attempts_goes_as_one(history: History) -> None:
    previous = await history.run("failed", 60)
    for _ in range(400):
        previous = await history.run("failed", 50, previous=previous)
    assert (await history.retention().sweep()).deleted == 401


@pytest.mark.parametrize(
    "text", ["", "0000-00-00T00:00:00.000Z", "2020-02-30T00:00:00.000Z", "2020-01-01T24:00:00.000Z"]
)
async def test_an_invalid_time_does_not_expire(history: History, text: str) -> None:
    run = await history.run()
    await history.execute("UPDATE runs SET updated_at = ?", text)
    assert (await history.retention().sweep()).deleted == 0
    assert await history.runs() == [run]


async def test_the_first_sweep_is_due_as_if_the_database_had_been_swept_when_it_began(history: History) -> None:
    assert await history.database.read(last_sweep) == NOW


async def test_the_file_shrinks(history: History) -> None:
    for _ in range(300):
        run = await history.run()
        await history.execute("UPDATE runs SET input_content = ? WHERE id = ?", "x" * 10_000, run)
    swept = await history.retention().sweep()
    assert swept.bytes_freed > 3_000_000
    assert await history.query("PRAGMA freelist_count") == [0]
    assert history.figure('retention_sweeps_total{result="done"}') == 1
    assert history.figure('retention_deleted_total{kind="runs"}') == swept.deleted
    assert history.figure("retention_freed_bytes_total") == swept.bytes_freed


async def test_the_time_of_the_last_sweep_is_recorded(history: History) -> None:
    await history.retention().sweep()
    assert await history.query("SELECT swept_at FROM instance") == [ago(0)]
