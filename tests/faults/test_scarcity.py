"""A host that has no open files left, and a disk that gives back something else than was written."""

import json
import resource
from pathlib import Path

import pytest

from tests.conftest import StartDaemon
from tests.daemon_process import DaemonProcess
from tests.faults.test_kill import assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.service.test_backup import damaged

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


@pytest.mark.parametrize("table", ["runs", "fires", "schedules"])
def test_a_flipped_page_is_told_and_a_backup_brings_all_back(
    start_daemon: StartDaemon, tmp_path: Path, table: str
) -> None:
    text = AGENT.format(folder=tmp_path)
    first = start_daemon(text)
    first.wait_for_run("completed")
    assert first.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    first.wait_for_row("SELECT 1 FROM runs WHERE status = 'completed' AND id > 3")
    page = root_page(first, table)
    first.stop()
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
