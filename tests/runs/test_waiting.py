"""Runs that wait: what a pause, a resumption and the end of their schedule mean for them."""

from collections import Counter
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Any

import pytest

from daemon.agents.base import Outcome, RunSettings
from daemon.config.schema import Config
from daemon.errors import RefusedError
from daemon.fires.backfill import Backfilled, backfill
from daemon.model import Overlap, RunStatus
from daemon.runs.cancel import cancel_pending, request_cancellation
from daemon.runs.finish import finish
from daemon.runs.retry import request_retry
from daemon.runs.waiting import cancel_without_schedule
from daemon.schedules import management
from daemon.schedules.management import ChangeRequest
from daemon.schedules.revision import Revision, remove
from daemon.store.connection import Transaction
from daemon.store.run_queue import startable, waiting_of, waiting_without_schedule
from daemon.store.schedules import ScheduleRow, get_schedule
from daemon.views.runs import runs_page
from daemon.views.schedules import schedule_view
from tests.support.ledger import SECOND, START, Ledger, due
from tests.support.parts import NO_NOTIFICATIONS

FAILED = Outcome(RunStatus.FAILED, "exit status 1")


def row_of(tx: Transaction) -> ScheduleRow:
    row = get_schedule(tx, "a", "s")
    assert row is not None
    return row


def request(at: datetime) -> ChangeRequest:
    return ChangeRequest("alice", at)


async def pause(ledger: Ledger, at: datetime) -> None:
    await ledger.database.write(lambda tx: management.pause(tx, row_of(tx), "too chatty", request(at)))


async def resume(ledger: Ledger, at: datetime) -> None:
    await ledger.database.write(lambda tx: management.resume(tx, row_of(tx), None, request(at)))


async def delete(ledger: Ledger, at: datetime, action: str = "delete") -> None:
    await ledger.database.write(lambda tx: remove(tx, row_of(tx), at, Revision("alice", action)))


async def ready(ledger: Ledger, at: datetime) -> list[int]:
    """Return the runs that the queue would start."""
    return [run.id for run in await ledger.database.write(lambda tx: startable(tx, at, [], 100)[0])]


async def fail(ledger: Ledger, run: int, at: datetime, **settings: Any) -> None:  # noqa: ANN401 - of any setting
    end = partial(finish, instance="instance", chance=0.5, outbox=NO_NOTIFICATIONS)
    await ledger.database.write(lambda tx: end(tx, run, FAILED, RunSettings(**settings), at))


async def backlog(ledger: Ledger, *lines: str, count: int = 4) -> datetime:
    """Run the first of some due times, and let the others wait for it; return the time."""
    await ledger.declare(*(lines or ('overlap = "buffer_all"',)))
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING)
    now = START + 10 * count * SECOND
    await ledger.decide(now)
    return now


async def statuses(ledger: Ledger) -> dict[int, str]:
    return {row["id"]: row["status"] for row in await ledger.select("SELECT id, status FROM runs ORDER BY id")}


async def test_nothing_of_a_paused_schedule_starts_but_what_a_person_requests(ledger: Ledger) -> None:
    now = await backlog(ledger, 'overlap = "buffer_all"')
    await pause(ledger, now)
    await fail(ledger, 1, now, attempts=2)  # its next attempt waits, too
    later = now + 100_000 * SECOND
    assert await ready(ledger, later) == []

    def ask(tx: Transaction) -> int:
        return management.trigger(tx, "a", "s", {}, None, request(now), "instance")

    triggered = await ledger.database.write(ask)
    assert await ready(ledger, later) == [triggered]
    await ledger.move(triggered, RunStatus.RUNNING)
    await fail(ledger, triggered, now, attempts=2)
    further = triggered + 1
    assert await ready(ledger, later) == [further]  # the attempts at a trigger belong to it
    await ledger.move(further, RunStatus.RUNNING, RunStatus.FAILED)
    retried = await ledger.database.write(lambda tx: request_retry(tx, further, "alice", now, "instance"))
    assert await ready(ledger, later) == [retried]


async def test_pause_on_failure_stops_the_backlog(ledger: Ledger) -> None:
    now = await backlog(ledger, 'overlap = "buffer_all"', "pause_on_failure = true", count=8)
    await fail(ledger, 1, now)
    assert await ready(ledger, now) == []
    page = await ledger.database.read(lambda c: runs_page(c, limit=100, status="pending"))
    assert {run["waiting_for"] for run in page["runs"]} == {"its schedule is paused"}
    assert page["total"] == 7
    view = await ledger.database.read(lambda c: schedule_view(c, row_of(c), Config(), now))  # type: ignore[arg-type]
    assert (view["waiting_runs"], view["running_runs"]) == (7, 0)


@pytest.mark.parametrize(
    ("lines", "still_runs", "left"),
    [
        (('overlap = "buffer_all"', 'catchup = "all"'), True, [2, 3, 4]),
        (('overlap = "buffer_all"', 'catchup = "latest"'), True, [4]),
        (('overlap = "buffer_all"', 'catchup = "none"'), True, []),
        (('overlap = "buffer_all"', 'catchup = "all"', 'catchup_window = "35s"'), True, [3, 4]),
        (('overlap = "buffer_one"', 'catchup = "all"'), True, [2]),
        (('overlap = "skip"', 'catchup = "all"'), True, []),
        (('overlap = "skip"', 'catchup = "all"'), False, [2]),
        (('overlap = "allow_all"', 'catchup = "all"'), True, [2, 3, 4]),
        (('overlap = "cancel_other"', 'catchup = "all"'), True, [4]),
    ],
)
async def test_a_resumption_decides_what_waited(
    ledger: Ledger, lines: tuple[str, ...], still_runs: bool, left: list[int]
) -> None:
    await backlog(ledger)
    now = START + 45 * SECOND
    await pause(ledger, now)
    if not still_runs:
        await ledger.move(1, RunStatus.COMPLETED)
    await ledger.declare(*lines, at=now)
    await resume(ledger, now + 10 * SECOND)
    assert [run for run, status in (await statuses(ledger)).items() if status == "pending"] == left
    flags = await ledger.select("SELECT run_id FROM cancellation_flags")
    assert [flag["run_id"] for flag in flags] == ([1] if "cancel_other" in lines[0] else [])
    fires = {row["run_id"]: row for row in await ledger.rows() if row["run_id"]}
    assert {run for run, fire in fires.items() if fire["outcome"] == "buffered"} == {*left}
    assert all(fire["outcome"].startswith("skipped_") and fire["reason"] for fire in fires.values() if (
        fire["run_id"] not in {1, *left}
    ))  # fmt: skip
    dropped = await ledger.select("SELECT error FROM runs WHERE status = 'cancelled'")
    assert all(run["error"].startswith("cancelled by alice: ") for run in dropped)


async def test_what_a_resumption_leaves_is_held_as_its_overlap_policy_says(ledger: Ledger) -> None:
    now = await backlog(ledger, 'overlap = "buffer_all"', 'catchup = "all"')
    await pause(ledger, now)
    await resume(ledger, now + SECOND)
    assert await ready(ledger, now + SECOND) == []  # the first one still runs
    await ledger.move(1, RunStatus.COMPLETED)
    assert await ready(ledger, now + SECOND) == [2]


async def test_backfilled_runs_wait_and_are_all_started_after_a_pause(ledger: Ledger) -> None:
    await ledger.declare('catchup = "none"', at=START)
    now = START + 5 * SECOND

    def fill(tx: Transaction) -> Backfilled:
        span = START - 40 * SECOND, START
        return backfill(
            tx, row_of(tx), span, Overlap.BUFFER_ALL, principal="alice", now=now, oldest=None, instance="instance"
        )

    runs = (await ledger.database.write(fill)).runs
    await pause(ledger, now)
    assert await ready(ledger, now) == []
    await resume(ledger, now + SECOND)
    assert [run for run, status in (await statuses(ledger)).items() if status == "pending"] == runs


@pytest.mark.parametrize(
    ("action", "reason"),
    [("delete", "its schedule was deleted"), ("retire", "its schedule was removed from the config file")],
)
async def test_the_end_of_a_schedule_cancels_what_waits_and_lets_run_what_runs(
    ledger: Ledger, action: str, reason: str
) -> None:
    now = await backlog(ledger)
    await delete(ledger, now, action)
    assert await statuses(ledger) == {1: "running", 2: "cancelled", 3: "cancelled", 4: "cancelled"}
    runs = await ledger.select("SELECT error FROM runs WHERE id > 1")
    assert {run["error"] for run in runs} == {f"cancelled by alice: {reason}"}
    fires = [(row["scheduled_for"], row["outcome"]) for row in await ledger.rows()]
    assert fires == [(due(10), "launched"), *((due(at), "skipped_requested") for at in (20, 30, 40))]


async def test_a_deleted_schedule_gets_no_further_attempt(ledger: Ledger) -> None:
    now = await backlog(ledger)
    await delete(ledger, now)
    await fail(ledger, 1, now, attempts=5)
    assert (await statuses(ledger))[1] == "failed"
    with pytest.raises(RefusedError, match="a/s, was deleted"):
        await ledger.database.write(lambda tx: request_retry(tx, 1, "alice", now, "instance"))


async def test_runs_that_an_earlier_version_left_behind_a_deleted_schedule_are_cancelled(ledger: Ledger) -> None:
    now = await backlog(ledger)
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET deleted_at = updated_at"))
    await ledger.move(1, RunStatus.COMPLETED)
    assert await ready(ledger, now) == []
    await ledger.database.write(
        lambda tx: tx.execute(
            "CREATE TEMP TRIGGER refuse BEFORE UPDATE ON main.runs WHEN old.id = 3 BEGIN SELECT RAISE(ABORT, 'no'); END"
        )
    )
    cancelled, failures = await ledger.database.write(lambda tx: cancel_without_schedule(tx, now))
    assert (cancelled, [*failures]) == ([2, 4], [3])
    await ledger.database.write(lambda tx: tx.execute("DROP TRIGGER refuse"))
    assert await ledger.database.write(lambda tx: cancel_without_schedule(tx, now)) == ([3], {})
    assert {*(await statuses(ledger)).values()} == {"completed", "cancelled"}


async def test_the_problems_of_a_deleted_schedule_are_forgotten(ledger: Ledger) -> None:
    now = await backlog(ledger)
    await fail(ledger, 1, now)
    blocked = "INSERT INTO notify_states SELECT 'blocked:1', 'denied', since, count, told_at, gap_ms FROM notify_states"
    await ledger.database.write(lambda tx: tx.execute(blocked))
    await delete(ledger, now)
    assert await ledger.select("SELECT * FROM notify_states") == []


async def test_a_cancelled_buffered_run_leaves_no_buffered_due_time_and_can_be_backfilled(ledger: Ledger) -> None:
    now = await backlog(ledger, count=2)
    await ledger.database.write(lambda tx: request_cancellation(tx, 2, now, "alice"))
    fire = (await ledger.rows())[1]
    assert (fire["outcome"], fire["reason"]) == ("skipped_requested", "cancelled by alice")
    await ledger.move(1, RunStatus.COMPLETED)

    def fill(tx: Transaction) -> Backfilled:
        span = START, START + 20 * SECOND
        return backfill(
            tx, row_of(tx), span, Overlap.SKIP, principal="alice", now=now, oldest=None, instance="instance"
        )

    done = await ledger.database.write(fill)
    assert (done.runs, done.already_run) == ([3], 1)
    assert (await ledger.rows())[1]["run_id"] == 3
    runs = await ledger.select("SELECT name, attempt, previous_run_id, next_run_id FROM runs WHERE id > 1")
    assert [(run["attempt"], run["previous_run_id"], run["next_run_id"]) for run in runs] == [
        (1, None, 3),
        (2, 2, None),
    ]
    assert (await ledger.database.write(fill)).already_run == 2


async def test_the_inputs_of_waiting_runs_are_not_read_to_end_or_resume_their_schedule(ledger: Ledger) -> None:
    """A thousand of them may have a megabyte each."""
    now = await backlog(ledger)
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET input_content = 'large', settings = '{}'"))
    waiting = await ledger.database.write(lambda tx: waiting_of(tx, row_of(tx).id))
    assert [(run.id, run.input_content, run.settings) for run in waiting] == [(n, "", None) for n in (2, 3, 4)]
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET deleted_at = updated_at"))
    assert await ledger.database.write(waiting_without_schedule) == [2, 3, 4]
    await ledger.database.write(lambda tx: cancel_without_schedule(tx, now))
    assert {row["input_content"] for row in await ledger.select("SELECT input_content FROM runs")} == {"large"}


def launched_and_pending(tx: Transaction) -> None:
    """Let the resumption find a run that waited for a slot only."""


def cancelled_by_alice(tx: Transaction) -> None:
    request_cancellation(tx, 1, START + 11 * SECOND, "alice")


@pytest.mark.parametrize(
    ("change", "outcome"),
    [(launched_and_pending, "skipped_paused"), (cancelled_by_alice, "skipped_requested")],
)
async def test_a_run_that_waited_for_a_slot_and_was_dropped_did_not_start_its_due_time(
    ledger: Ledger, change: Callable[[Transaction], None], outcome: str
) -> None:
    await ledger.declare('overlap = "skip"', 'catchup = "none"')
    await ledger.decide(START + 10 * SECOND)
    assert (await ledger.rows())[0]["outcome"] == "launched"
    now = START + 11 * SECOND
    await pause(ledger, now)
    await ledger.database.write(change)
    await resume(ledger, now + SECOND)
    [fire] = [row for row in await ledger.rows() if row["run_id"]]
    assert (fire["outcome"], (await statuses(ledger))[1]) == (outcome, "cancelled")
    view = await ledger.database.read(lambda c: schedule_view(c, row_of(c), Config(), now))  # type: ignore[arg-type]
    assert view["num_actions_taken"] == 0
    assert (await ledger.database.write(lambda tx: filled(tx, now + SECOND))).runs == [2]
    assert (await ledger.database.write(lambda tx: filled(tx, now + SECOND))).already_run == 1


async def test_a_cancelled_run_that_may_have_started_keeps_its_due_time(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    await ledger.move(1, RunStatus.RUNNING, RunStatus.PENDING)  # an agent behind a URL may have its input
    await ledger.database.write(cancelled_by_alice)
    assert ((await ledger.rows())[0]["outcome"], (await statuses(ledger))[1]) == ("launched", "cancelled")
    assert (await ledger.database.write(lambda tx: filled(tx, START + 11 * SECOND))).already_run == 1


def filled(tx: Transaction, now: datetime) -> Backfilled:
    span = START, min(now, START + 20 * SECOND)
    return backfill(tx, row_of(tx), span, Overlap.SKIP, principal="alice", now=now, oldest=None, instance="instance")


async def test_a_due_time_that_any_attempt_has_started_is_not_backfilled(ledger: Ledger) -> None:
    now = await backlog(ledger, count=2)
    await ledger.database.write(lambda tx: request_cancellation(tx, 2, now, "alice"))
    await ledger.move(1, RunStatus.COMPLETED)
    retried = await ledger.database.write(lambda tx: request_retry(tx, 2, "alice", now, "instance"))
    await ledger.move(retried, RunStatus.RUNNING, RunStatus.COMPLETED)
    again = await ledger.database.write(lambda tx: request_retry(tx, retried, "alice", now, "instance"))
    await ledger.database.write(lambda tx: request_cancellation(tx, again, now, "alice"))
    done = await ledger.database.write(lambda tx: filled(tx, now))
    assert (done.runs, done.already_run) == ([], 2)


async def test_large_runs_of_a_deleted_schedule_are_cancelled_a_few_at_a_time(ledger: Ledger) -> None:
    now = await backlog(ledger, 'overlap = "buffer_all"', f'input = "{"x" * 1_000_000}"', count=9)
    cancelled = await ledger.database.write(lambda tx: remove(tx, row_of(tx), now, Revision("alice", "delete"))[1])
    assert cancelled == 7
    waiting, left = [4], 4
    assert Counter((await statuses(ledger)).values()) == {"running": 1, "cancelled": 3, "pending": left}
    assert await ready(ledger, now + 100 * SECOND) == []
    while left:
        await ledger.database.write(lambda tx: cancel_pending(tx, now))
        left = Counter((await statuses(ledger)).values())["pending"]
        waiting.append(left)
    assert waiting == [4, 1, 0]
    errors = await ledger.select("SELECT DISTINCT error FROM runs WHERE status = 'cancelled'")
    assert [row["error"] for row in errors] == ["cancelled by alice: its schedule was deleted"]
    reasons = await ledger.select("SELECT DISTINCT outcome, reason FROM fires WHERE run_id <> 1")
    assert [tuple(row.values()) for row in reasons] == [("skipped_requested", errors[0]["error"])]
