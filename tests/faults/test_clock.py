"""The wall clock moved under a running daemon (libfaketime where the host has it, the real one where it may be set)."""

import os
import select
import time
from datetime import datetime
from pathlib import Path

import pytest

from daemon.timerfd import acknowledge, open_clock_watch
from tests.conftest import StartDaemon
from tests.daemon_process import DaemonProcess, wait_until

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)
CONFIG = (
    '[agents.a]\ncommand = ["true"]\nmax_concurrent = 4\n[agents.a.schedules.s]\nevery = "2s"\noverlap = "allow_all"\n'
)
needs_faketime = pytest.mark.skipif(LIBRARY is None, reason="libfaketime (Debian's faketime) is not installed")


def test_the_kernel_tells_when_the_wall_clock_is_set() -> None:
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


def step(folder: Path, seconds: int) -> None:
    """Set the clock that the daemon sees, in one stroke."""
    (folder / "fresh").write_text(f"{seconds:+d}\n")
    (folder / "fresh").rename(folder / "clock")


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
