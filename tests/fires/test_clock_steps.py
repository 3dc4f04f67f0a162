"""The ledger when the wall clock steps: nothing early, nothing twice, nothing forgotten, no schedule silenced."""

import asyncio
import os
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta

import pytest

from daemon.access import Access, Claim, Standing
from daemon.clock import watch
from daemon.clock.alarm import Clock
from daemon.clock.watch import ClockWatch
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.fires.backfill import backfill
from daemon.fires.rewind import step_back
from daemon.metrics import Metrics
from daemon.model import DueTime, FireOutcome, Overlap
from daemon.store.home import Home
from daemon.store.schedules import get_schedule
from daemon.units import format_instant, parse_instant
from tests.support.ledger import SECOND, START, Ledger, due
from tests.support.parts import NO_NOTIFICATIONS

FAR = datetime(2036, 1, 1, 0, 0, 0, 500_000, tzinfo=UTC)


async def test_a_forward_step_is_a_gap_and_a_backward_step_starts_nothing_twice(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    await ledger.decide(START + 10 * SECOND)
    ahead = START + timedelta(hours=1)
    await ledger.decide(ahead)
    before = await ledger.rows()
    assert [row["outcome"] for row in before].count("launched") == 1 + 1 + 6  # as due, latest missed, the last minute
    back = START + 20 * SECOND
    await ledger.database.write(lambda tx: step_back(tx, back))
    await ledger.decide(ahead)
    assert await ledger.rows() == before
    await ledger.decide(ahead + 10 * SECOND)
    assert len(await ledger.rows()) == len(before) + 1


async def test_after_a_backward_step_nothing_is_early_and_nothing_is_missed(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"')
    ledger.started = START + timedelta(minutes=10)
    await ledger.decide(START + timedelta(minutes=10, seconds=15))
    before = await ledger.rows()
    back = START - timedelta(minutes=10)  # before the daemon was started
    await ledger.database.write(lambda tx: step_back(tx, back))
    fires = await ledger.decide(back + 30 * SECOND)
    assert [format_instant(fire.due) for fire in fires] == [due(-590), due(-580), due(-570)]
    assert {fire.outcome for fire in fires} == {FireOutcome.LAUNCHED}
    assert len(await ledger.rows()) == len(before) + 3


async def test_a_backward_step_does_not_silence_what_was_not_recorded(ledger: Ledger) -> None:
    await ledger.declare(at=START + timedelta(days=3650))
    await ledger.database.write(lambda tx: step_back(tx, START))
    fires = await ledger.decide(START + 10 * SECOND)
    assert [fire.outcome for fire in fires] == [FireOutcome.LAUNCHED]


async def test_a_step_to_2036_and_back_silences_nothing(ledger: Ledger) -> None:
    await ledger.declare('overlap = "allow_all"', every="1s")
    await ledger.decide(START + SECOND)
    fires = await ledger.decide(FAR)
    assert sum(fire.outcome is FireOutcome.LAUNCHED for fire in fires) == 1 + 60
    back = START + 10 * SECOND
    await ledger.database.write(lambda tx: step_back(tx, back))
    summary = (await ledger.select("SELECT * FROM fires WHERE covers_count IS NOT NULL"))[0]
    assert (summary["covers_until"], summary["covers_count"]) == (format_instant(back - timedelta(seconds=0.5)), 9)
    fires = await ledger.decide(back + 3 * SECOND)
    assert [(fire.outcome, fire.count) for fire in fires] == [(FireOutcome.LAUNCHED, 1)] * 3
    await assert_each_second_has_one_row(ledger, START + SECOND, back + 3 * SECOND)


async def test_a_start_in_1970_is_followed_by_one_gap(ledger: Ledger) -> None:
    early = datetime(1970, 1, 1, 0, 0, 30, tzinfo=UTC)
    ledger.started = early
    await ledger.declare(at=early, every="1s")
    assert len(await ledger.decide(early + SECOND)) == 1
    fires = await ledger.decide(START)
    assert [fire.outcome for fire in fires[:1]] == [FireOutcome.SKIPPED_MISSED]
    assert len(fires) < 100
    await assert_each_second_has_one_row(ledger, early + SECOND, START)


async def test_a_summary_entirely_in_the_future_is_deleted(ledger: Ledger) -> None:
    await ledger.declare(at=START, every="1s")
    await ledger.decide(FAR)
    await ledger.database.write(lambda tx: step_back(tx, START - 10 * SECOND))
    assert await ledger.select("SELECT * FROM fires WHERE covers_count IS NOT NULL") == []


@pytest.mark.parametrize("meanwhile", ["retired", "slower"])
async def test_a_schedule_that_was_changed_under_a_clock_ahead_is_not_silenced(ledger: Ledger, meanwhile: str) -> None:
    await ledger.declare('overlap = "allow_all"', every="1s")
    await ledger.decide(START + SECOND)
    await ledger.decide(FAR)
    every = "1s"
    if meanwhile == "retired":
        await ledger.declare("nothing", at=FAR)
    else:
        every = "3s"
        await ledger.declare('overlap = "allow_all"', at=FAR, every=every)
    back = START + 10 * SECOND
    await ledger.database.write(lambda tx: step_back(tx, back))
    await ledger.declare('overlap = "allow_all"', at=back, every=every)
    fires = await ledger.decide(back + 10 * SECOND)
    assert {fire.outcome for fire in fires} == {FireOutcome.LAUNCHED}
    assert len(fires) >= 3
    past = [row for row in await ledger.rows() if row["scheduled_for"] <= format_instant(back)]
    covered = max(parse_instant(row["covers_until"] or row["scheduled_for"]) for row in past)
    assert back - 3 * SECOND < covered <= back


@pytest.mark.parametrize("ahead", [SECOND, timedelta(days=3650)])
async def test_an_attempt_scheduled_while_the_clock_was_ahead_waits_its_original_delay(
    ledger: Ledger, ahead: timedelta
) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    told, until = format_instant(START + ahead), format_instant(START + ahead + timedelta(hours=1))
    await ledger.database.write(
        lambda tx: tx.execute("UPDATE runs SET not_before = ?, updated_at = ? WHERE id = 1", (until, told))
    )
    for _ in range(2):  # the second time there is nothing left to mend
        await ledger.database.write(lambda tx: step_back(tx, START))
        [run] = await ledger.select("SELECT not_before FROM runs")
        assert run["not_before"] == format_instant(START + timedelta(hours=1))


async def test_an_attempt_that_waits_under_a_right_clock_continues_to_wait(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.decide(START + 10 * SECOND)
    until = format_instant(START + timedelta(hours=1))
    await ledger.database.write(lambda tx: tx.execute("UPDATE runs SET not_before = ? WHERE id = 1", (until,)))
    await ledger.database.write(lambda tx: step_back(tx, START + 11 * SECOND))
    assert (await ledger.select("SELECT not_before FROM runs"))[0]["not_before"] == until


async def assert_each_second_has_one_row(ledger: Ledger, first: datetime, until: datetime) -> None:
    """Each second up to an instant is covered by exactly one row; rows beyond it are left aside."""
    rows = await ledger.select("SELECT * FROM fires ORDER BY scheduled_for")
    expected = first.replace(microsecond=0)
    for row in rows:
        if parse_instant(row["scheduled_for"]) > until:
            break
        assert row["scheduled_for"] == format_instant(expected)
        last = parse_instant(row["covers_until"] or row["scheduled_for"])
        assert row["covers_count"] in {None, (last - expected) // SECOND + 1}
        expected = last + SECOND
    assert expected > until - SECOND


async def test_a_clock_step_reported_by_the_kernel_is_handled_at_once(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timerfd is an eventfd here, and the clocks are the test's, where no alarm rings: none may set the host's."""
    await ledger.declare(at=FAR)
    told, ahead = os.eventfd(0), timedelta(0)

    def wall_minus_monotonic() -> float:
        return ahead.total_seconds()

    monkeypatch.setattr(watch, "open_clock_watch", lambda: told)
    monkeypatch.setattr(watch, "acknowledge", os.eventfd_read)
    monkeypatch.setattr(watch, "_wall_minus_monotonic", wall_minus_monotonic)
    home = Home(ledger.database, ledger.folder, "x", FAR, lambda: FAR + ahead)
    live = LiveConfig(load_config(ledger.folder / "config.toml", {}))
    clock = Clock(home, live, Access(live), NO_NOTIFICATIONS, Metrics())
    tasks = [asyncio.create_task(work) for work in (clock.serve(), ClockWatch(home).serve())]
    await ledger.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
    ahead = timedelta(hours=10)
    os.eventfd_write(told, 1)
    async with asyncio.timeout(4):  # sooner than the heartbeat
        while not await ledger.rows():
            await ledger.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert (await ledger.rows())[0]["outcome"] == FireOutcome.SKIPPED_MISSED


class SilentAtFirst(Access):
    """Rights of which the first question gets no answer in time."""

    def __init__(self, live: LiveConfig) -> None:
        super().__init__(live)
        self.asked: list[set[Claim]] = []

    async def standings(self, claims: Iterable[Claim]) -> dict[Claim, Standing]:
        self.asked.append(set(claims))
        return dict.fromkeys(claims, Standing(may_start=True, is_admin=False)) if len(self.asked) > 1 else {}


async def test_a_silent_name_service_postpones_only_the_schedules_of_its_users(ledger: Ledger) -> None:
    await ledger.declare()
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedules SET creator = 'somebody'"))
    now = START + 10 * SECOND
    live = LiveConfig(load_config(ledger.folder / "config.toml", {}))
    access = SilentAtFirst(live)
    home = Home(ledger.database, ledger.folder, "x", START, lambda: now)
    clock = Clock(home, live, access, NO_NOTIFICATIONS, Metrics())
    assert await clock.decide() == now + 5 * SECOND
    assert await ledger.rows() == []
    now += 5 * SECOND
    await clock.decide()
    assert access.asked == [{("somebody", "a")}] * 2
    assert [(row["scheduled_for"], row["outcome"]) for row in await ledger.rows()] == [(due(10), "launched")]


async def summary_of(ledger: Ledger, first: int, seconds: int) -> None:
    """Have the due times of so many seconds missed, and covered by one row."""
    ledger.started = START + seconds * SECOND
    await ledger.decide(ledger.started)
    [summary] = [row for row in await ledger.rows() if row["covers_count"]]
    assert (summary["scheduled_for"], summary["covers_until"]) == (due(first), due(seconds - 1))


async def take_out(ledger: Ledger, seconds: int, now: datetime) -> None:
    row = await ledger.database.read(lambda c: get_schedule(c, "a", "s"))
    assert row is not None
    at = DueTime(START.replace(microsecond=0) + seconds * SECOND)
    await ledger.database.write(
        lambda tx: backfill(tx, row, (at, at), Overlap.ALLOW_ALL, principal="x", now=now, oldest=None, instance="x")
    )


async def covered(ledger: Ledger) -> int:
    return sum(row["covers_count"] or 1 for row in await ledger.rows())


@pytest.mark.parametrize("seconds", [1, 700, 1999])
async def test_a_summary_is_split_by_its_cadence_whatever_the_clock_said_of_the_change(
    ledger: Ledger, seconds: int
) -> None:
    await ledger.declare(every="1h")
    await ledger.declare('catchup = "latest"', every="1s", at=START + timedelta(days=365))
    await ledger.database.write(lambda tx: step_back(tx, START))
    await summary_of(ledger, 1, 2000)
    before = await covered(ledger)
    await take_out(ledger, seconds, START + 2001 * SECOND)
    assert await covered(ledger) == before
    last = due(0)
    for row in await ledger.rows():  # no due time between two rows
        assert parse_instant(row["scheduled_for"]) == parse_instant(last) + SECOND
        last = row["covers_until"] or row["scheduled_for"]


async def test_a_summary_ends_by_its_cadence_after_the_cadence_changed(ledger: Ledger) -> None:
    await ledger.declare(every="1s")
    await summary_of(ledger, 1, 2000)
    await ledger.declare(every="10m", at=START + 2001 * SECOND)
    await ledger.database.write(lambda tx: step_back(tx, START + 1500 * SECOND))
    [summary] = [row for row in await ledger.rows() if row["covers_count"]]
    assert (summary["covers_until"], summary["covers_count"]) == (due(1500), 1500)


async def test_a_summary_of_unknown_cadence_loses_nothing_but_what_is_taken_out(ledger: Ledger) -> None:
    await ledger.declare(every="1s")
    await summary_of(ledger, 1, 2000)
    await ledger.database.write(lambda tx: tx.execute("UPDATE fires SET schedule_version = NULL"))
    await ledger.declare(every="10m", at=START + 2001 * SECOND)
    await take_out(ledger, 600, START + 2001 * SECOND)
    before, taken, after, *_ = await ledger.rows()
    assert (before["scheduled_for"], taken["scheduled_for"], taken["outcome"]) == (due(1), due(600), "launched")
    assert after["covers_until"] == due(1999)
    assert before["covers_count"] + after["covers_count"] == 1998


@pytest.mark.parametrize(
    "damage",
    ["schedules SET cron = 'nonsense', every_ms = NULL", "fires SET outcome = 'skipped_missed', decided_at = 'x'"],
)
async def test_a_damaged_row_does_not_prevent_the_handling_of_a_backward_step(ledger: Ledger, damage: str) -> None:
    await ledger.declare(every="1s")
    await summary_of(ledger, 1, 2000)
    await ledger.database.write(lambda tx: tx.execute(f"UPDATE {damage}"))
    await ledger.database.write(lambda tx: tx.execute("UPDATE schedule_revisions SET changes = '[]'"))
    await ledger.database.write(lambda tx: step_back(tx, START + 1500 * SECOND))
    [summary] = [row for row in await ledger.rows() if row["covers_count"]]
    assert parse_instant(summary["covers_until"]) <= START + 1500 * SECOND
