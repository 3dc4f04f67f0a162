"""The wall clock moved under a running daemon (libfaketime where the host has it, the real one where it may be set)."""

import os
import select
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.clock.timerfd import acknowledge, open_clock_watch
from daemon.units import format_instant, parse_instant
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.faketime import LIBRARY, needs_faketime, step
from tests.support.waiting import wait_until

CONFIG = (
    '[agents.a]\ncommand = ["true"]\nmax_concurrent = 4\n[agents.a.schedules.s]\nevery = "2s"\noverlap = "allow_all"\n'
)


def test_the_kernel_reports_when_the_wall_clock_is_set() -> None:
    descriptor = open_clock_watch()
    try:
        assert select.select([descriptor], [], [], 0)[0] == []
        try:
            time.clock_settime_ns(time.CLOCK_REALTIME, time.clock_gettime_ns(time.CLOCK_REALTIME))
        except PermissionError:
            pytest.skip("this host does not let its clock be set")
        assert select.select([descriptor], [], [], 5)[0] == [descriptor]
        acknowledge(descriptor)
        assert select.select([descriptor], [], [], 0)[0] == []
    finally:
        os.close(descriptor)


def start_with_movable_clock(start_daemon: StartDaemon, folder: Path) -> DaemonProcess:
    step(folder, 0)
    return start_daemon(
        CONFIG,
        LD_PRELOAD=str(LIBRARY),
        FAKETIME_TIMESTAMP_FILE=str(folder / "clock"),
        FAKETIME_NO_CACHE="1",
        FAKETIME_DONT_FAKE_MONOTONIC="1",
    )


def assert_nothing_was_early(daemon: DaemonProcess) -> None:
    for row in daemon.query("SELECT scheduled_for, decided_at FROM fires"):
        assert datetime.fromisoformat(row["scheduled_for"]) <= datetime.fromisoformat(row["decided_at"])


@needs_faketime
@pytest.mark.parametrize("seconds", [3600, -3600])
def test_a_step_of_the_clock_is_noticed_and_the_ledger_stays_exact(
    start_daemon: StartDaemon, tmp_path: Path, seconds: int
) -> None:
    daemon = start_with_movable_clock(start_daemon, tmp_path)
    daemon.wait_for_run("completed")
    before = {row["id"] for row in daemon.query("SELECT id FROM runs")}
    step(tmp_path, seconds)
    daemon.wait_for_log("[clock] The wall clock jumped", deadline=30)
    wait_until(lambda: len(daemon.query("SELECT id FROM runs WHERE status = 'completed'")) >= len(before) + 3)
    assert_nothing_was_early(daemon)
    runs = daemon.query("SELECT count(*) AS n, count(DISTINCT scheduled_for) AS different FROM runs")
    assert runs[0]["n"] == runs[0]["different"] < len(before) + 45
    summaries = daemon.query("SELECT * FROM fires WHERE covers_count IS NOT NULL")
    assert [row["outcome"] for row in summaries] == (["skipped_missed"] if seconds > 0 else [])


@needs_faketime
def test_a_step_to_2036_and_back_leaves_one_row_per_second_and_a_live_schedule(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_with_movable_clock(start_daemon, tmp_path)
    daemon.wait_for_run("completed")
    step(tmp_path, 300_000_000)
    daemon.wait_for_log("[clock] The wall clock jumped", deadline=30)
    there = daemon.wait_for_row("SELECT max(id) AS id FROM runs WHERE scheduled_for > '2035' HAVING count(*) > 0")
    step(tmp_path, 0)
    back = "SELECT 1 FROM runs WHERE id > ? AND scheduled_for < '2035' AND status = 'completed' LIMIT 1"
    daemon.wait_for_row(back, there["id"], deadline=30)
    runs = daemon.query("SELECT count(*) AS n, count(DISTINCT scheduled_for) AS different FROM runs")[0]
    assert runs["n"] == runs["different"] < 100
    covered = "SELECT 1 FROM fires f JOIN fires s ON f.scheduled_for > s.scheduled_for "
    assert daemon.query(covered + "AND f.scheduled_for <= s.covers_until AND f.outcome = 'launched'") == []


@needs_faketime
@pytest.mark.parametrize("minutes", [20, pytest.param(130, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_sixty_times_as_fast_over_the_end_of_summer_time(start_daemon: StartDaemon, minutes: int) -> None:
    """02:00 BST is 01:00 UTC; a wildcard job follows the wall clock, a fixed one does not run in the repeated hour."""
    zone = 'timezone = "Europe/London"\noverlap = "allow_all"\n'
    begin = datetime(2026, 10, 25, 1, 0, tzinfo=UTC) - timedelta(minutes=minutes / 2)
    daemon = start_daemon(
        '[agents.a]\ncommand = ["true"]\nmax_concurrent = 4\n'
        f'[agents.a.schedules.wild]\ncron = "*/2 * * * *"\n{zone}'
        f'[agents.a.schedules.fixed]\ncron = "2 1 * * *"\n{zone}',
        LD_PRELOAD=str(LIBRARY),
        FAKETIME=f"@{begin:%Y-%m-%d %H:%M:%S} x60",
        TZ="UTC",
    )
    end = format_instant(begin + timedelta(minutes=minutes))
    daemon.wait_for_row("SELECT 1 FROM fires WHERE scheduled_for >= ?", end, deadline=minutes + 30)
    assert_nothing_was_early(daemon)
    wild = daemon.query("SELECT scheduled_for, outcome FROM fires WHERE schedule_id = 1 ORDER BY 1")
    first = parse_instant(wild[0]["scheduled_for"])
    assert first - begin <= timedelta(minutes=8)  # the start of the daemon takes a minute or two of this time
    assert [row["scheduled_for"] for row in wild] == [
        format_instant(first + timedelta(minutes=2 * number)) for number in range(len(wild))
    ]
    fixed = [row["scheduled_for"] for row in daemon.query("SELECT scheduled_for FROM fires WHERE schedule_id = 2")]
    assert fixed == (["2026-10-25T00:02:00.000Z"] if minutes > 120 else [])
