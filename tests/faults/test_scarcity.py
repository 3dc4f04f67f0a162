"""A host without free file descriptors, and a disk that returns other data than was written."""

import json
import resource
from pathlib import Path

import pytest

from tests.support.api import call
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.database import damaged
from tests.support.ledger import assert_no_run_started_twice, assert_the_ledger_is_exact

AGENT = """\
[agents.a]
command = ["sh", "-c", "echo $AGENTCRON_RUN_ID >> {folder}/started"]
[agents.a.schedules.s]
every = "1s"
overlap = "buffer_all"
"""


def root_page(daemon: DaemonProcess, table: str) -> int:
    return int(daemon.query("SELECT rootpage FROM sqlite_schema WHERE name = ?", table)[0]["rootpage"])


def test_without_open_files_runs_wait_and_none_is_lost(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(AGENT.format(folder=tmp_path))
    daemon.wait_for_run("completed")
    pid = daemon.process.pid
    used = len(list(Path(f"/proc/{pid}/fd").iterdir()))
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (used - 2, before[1]))
    waiting = daemon.wait_for_log("[run] Run pending")
    assert "Too many open files" in waiting["error"]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id > ? AND status = 'completed'", waiting["run_id"])
    assert {row["status"] for row in daemon.query("SELECT status FROM runs")} <= {"completed", "pending", "running"}
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    assert daemon.stop() == 0


def test_too_low_a_limit_of_open_files_is_reported(start_daemon: StartDaemon, tmp_path: Path) -> None:
    few = "import resource\nresource.setrlimit(resource.RLIMIT_NOFILE, ({0}, {0}))"
    daemon = start_daemon(AGENT.format(folder=tmp_path), slowed=few.format(64))
    daemon.wait_for_run("completed")
    daemon.stop()
    daemon = start_daemon(AGENT.format(folder=tmp_path), ready=False, slowed=few.format(63))
    assert daemon.process.wait(20) == 1
    assert daemon.log_text().startswith(
        "agentcron: this process may open only 63 files, but agentcron needs at least 64"
    )


def test_a_removed_database_is_reported_and_nothing_is_acknowledged(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon("[control]\nsocket = 'c.sock'\n" + AGENT.format(folder=tmp_path))
    daemon.wait_for_run("completed")
    (daemon.state / "state.db").rename(tmp_path / "aside.db")
    created = call(daemon, "POST", "/agents/a/schedules", {"name": "mine", "interval_seconds": 3600})
    assert created.status == 503
    assert "removed or replaced" in created.body["message"]
    assert f"a daemon runs, pid {daemon.process.pid}, but its database is missing" in daemon.cli("status").stderr
    (tmp_path / "aside.db").rename(daemon.state / "state.db")
    [known] = daemon.query("SELECT max(id) AS id FROM runs")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id > ? AND status = 'completed'", known["id"])
    assert_no_run_started_twice(tmp_path)


def test_a_damage_that_a_run_meets_stops_the_daemon_and_not_its_agent(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    slowed = (
        "from daemon.errors import StoreDamagedError\nfrom daemon.runs import delivery_stages\n"
        "async def delivered(*_): raise StoreDamagedError('the database is damaged (for a test)')\n"
        "delivery_stages.Stages._delivered = delivered"
    )
    text = AGENT.format(folder=tmp_path).replace("overlap", "# overlap")
    first = start_daemon(text, slowed=slowed)
    assert first.process.wait(20) == 1
    assert "for a test" in first.log_text()
    start_daemon(text).wait_for_row("SELECT 1 FROM runs WHERE id = 1 AND status = 'completed'")
    assert_no_run_started_twice(tmp_path)


@pytest.mark.parametrize("table", ["runs", "fires", "schedules"])
def test_a_flipped_page_is_reported_and_a_backup_restores_everything(
    start_daemon: StartDaemon, tmp_path: Path, table: str
) -> None:
    text = AGENT.format(folder=tmp_path)
    first = start_daemon(text)
    first.wait_for_run("completed")
    assert first.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    first.wait_for_row("SELECT 1 FROM runs WHERE status = 'completed' AND id > 3")
    page = root_page(first, table)
    first.stop()
    first.wait_for_supervisors()
    damaged(first.state / "state.db", page)
    second = start_daemon(text, ready=False)
    assert second.process.wait(20) == 1
    assert "agentcron restore" in second.log_text()
    assert "Traceback" not in second.log_text()
    restored = json.loads(second.cli("restore", "--json", str(tmp_path / "backup.db")).stdout)
    started = {int(number) for number in (tmp_path / "started").read_text().split()}
    assert started <= {*range(1, restored["runs"] + 1), *restored["unknown_runs"]}  # it says exactly what was lost
    third = start_daemon(text)
    third.wait_for_row("SELECT 1 FROM runs WHERE id >= ? AND status = 'completed'", restored["numbers_from"])
    assert_no_run_started_twice(tmp_path)
