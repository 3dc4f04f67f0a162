"""A day at sixty times its speed: nothing is missed, and nothing grows that should not."""

import signal
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from daemon.units import parse_instant
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.faketime import LIBRARY, needs_faketime
from tests.support.waiting import pause, wait_until

BEGIN = datetime(2026, 11, 21, tzinfo=UTC)
SCHEDULES = 50
STEP = timedelta(minutes=10)
HEAD = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 8
[log]
file = "daemon.log"
format = "json"
[retention]
days = 1
every = "1h"
[cleanup]
every = "30m"
max_age = "1h"
[environments.site]
mode = "git"
repository = "site.git"
[agents.coder]
environment = "site"
command = ["sh", "-c", "echo work > file"]
[agents.coder.schedules.often]
every = "30m"
"""
MOST_MORE_FILES = 8
MOST_MORE_MEMORY = 16 * 1024**2
MOST_LOG_A_RUN = 1500  # bytes, with what is told beside runs
MOST_LOG_ELSE = 100_000


def make_repository(place: Path) -> None:
    """Make a bare repository with one commit."""
    script = """git init -q --bare -b main . && tree=$(git hash-object -t tree -w /dev/null) &&
    commit=$(git -c user.name=a -c user.email=a@example.org commit-tree -m one $tree) &&
    git update-ref refs/heads/main $commit"""
    place.mkdir()
    subprocess.run(["sh", "-ec", script], check=True, cwd=place)


def config(description: str) -> str:
    parts = [HEAD]
    for number in range(SCHEDULES):
        parts.append(f"[agents.a{number}]\ncommand = ['true']\n[agents.a{number}.schedules.s]\nevery = '10m'\n")
        parts.append(f"offset = '{number % 10}m'\ndescription = '{description}'\n")
    return "".join(parts)


def measured(daemon: DaemonProcess) -> tuple[int, int]:
    """Return how many files the daemon has open while no run starts, and how many bytes of memory it holds."""
    process = Path(f"/proc/{daemon.process.pid}")
    files = []
    end = time.monotonic() + 2
    while time.monotonic() < end:
        pause(0.02)
        files.append(len(list((process / "fd").iterdir())))
    [line] = [line for line in (process / "status").read_text().splitlines() if line.startswith("VmRSS:")]
    return min(files), int(line.split()[1]) * 1024


def gaps(daemon: DaemonProcess, step: timedelta) -> list[str]:
    """Return due times of the schedules `s` that have no row although an earlier and a later one has."""
    missing = []
    rows = daemon.query(
        "SELECT schedule_id, scheduled_for, covers_until FROM fires JOIN schedules ON schedules.id = schedule_id "
        "WHERE name = 's' ORDER BY 1, 2"
    )
    expected: dict[int, datetime] = {}
    for row in rows:
        due = parse_instant(row["scheduled_for"])
        if expected.get(row["schedule_id"], due) != due:
            missing.append(f"{row['schedule_id']}: {expected[row['schedule_id']]} is missing, {due} came")
        expected[row["schedule_id"]] = parse_instant(row["covers_until"] or row["scheduled_for"]) + step
    return missing


@needs_faketime
@pytest.mark.parametrize(
    "minutes",
    [
        pytest.param(2, marks=pytest.mark.timeout(300)),
        pytest.param(24, marks=[pytest.mark.soak, pytest.mark.timeout(2400)]),
    ],
)
def test_a_day_leaves_files_memory_and_log_as_they_should_be(
    start_daemon: StartDaemon, tmp_path: Path, minutes: int
) -> None:
    make_repository(tmp_path / "site.git")
    daemon = start_daemon(
        config("first"),
        ready=False,
        LD_PRELOAD=str(LIBRARY),
        FAKETIME=f"@{BEGIN:%Y-%m-%d %H:%M:%S} x60",
        TZ="UTC",
    )
    log = tmp_path / "daemon.log"
    wait_until(lambda: log.exists() and "[daemon] Ready" in log.read_text(), what="a ready daemon")
    end = time.monotonic() + minutes * 60
    warm = time.monotonic() + minutes * 15
    before = None
    turn = 0
    while time.monotonic() < end:
        turn += 1
        daemon.config.write_text(config(f"turn {turn}"))
        daemon.process.send_signal(signal.SIGHUP)
        later = time.monotonic() + minutes * 5  # a dozen reloads in all
        wait_until(lambda later=later: time.monotonic() > later, deadline=minutes * 10)  # type: ignore[misc]
        if before is None and time.monotonic() > warm:
            before = measured(daemon)
    after = measured(daemon)
    assert before is not None
    assert after[0] <= before[0] + MOST_MORE_FILES
    assert after[1] <= before[1] + MOST_MORE_MEMORY
    assert gaps(daemon, STEP) == []
    [row] = daemon.query("SELECT count(*) AS n FROM runs WHERE status = 'completed'")
    assert row["n"] > SCHEDULES * minutes * 6 * 0.7  # each is due six times in a minute here; some are skipped
    assert log.stat().st_size < row["n"] * MOST_LOG_A_RUN + turn * SCHEDULES * 300 + MOST_LOG_ELSE
    assert "Traceback" not in log.read_text()
    if minutes > 2:  # in the first hours no workspace is old enough
        assert daemon.query("SELECT 1 FROM workspaces WHERE removed_at IS NOT NULL")
    assert daemon.stop(deadline=30) == 0
