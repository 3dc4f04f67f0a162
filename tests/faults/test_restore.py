"""Promises 1 and 2 when a restore is killed before any of its lines: the next restore completes it."""

import json
import random
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.ledger import assert_no_run_started_twice

AGENT = """
[agents.a]
command = ["sh", "-c", "echo $AGENTCRON_RUN_ID >> {folder}/started"]
[agents.a.schedules.s]
every = "1s"
catchup = "all"
"""
COUNTING = """
import os, signal, sys
from daemon.__main__ import main
import daemon.recovery.restore, daemon.recovery.adoption, daemon.store.backup, daemon.store.witness
lines, last = set(), int(sys.argv.pop(1))
def each(frame, event, _):
    if event == "line":
        lines.add((frame.f_code.co_filename, frame.f_lineno))
        if len(lines) == last:
            os.kill(os.getpid(), signal.SIGKILL)
    return each
ROOMS = "recovery/restore.py", "recovery/adoption.py", "store/witness.py", "store/backup.py"
sys.settrace(lambda frame, *_: each if frame.f_code.co_filename.endswith(ROOMS) else None)
try:
    main()
finally:
    sys.settrace(None)
    print(len(lines), file=sys.stderr)
"""


def restore(daemon: DaemonProcess, backup: Path, *, killed_at: int) -> subprocess.CompletedProcess[str]:
    """Restore, and be killed before a line of it; before none if that is 0."""
    return subprocess.run(
        [sys.executable, "-c", COUNTING, str(killed_at), "--config", daemon.config, "restore", "--json", backup],
        capture_output=True,
        text=True,
        check=False,
        env=daemon.environment,
    )


@pytest.fixture
def ended(start_daemon: StartDaemon, tmp_path: Path) -> DaemonProcess:
    """A daemon that was stopped, with a backup that knows some of its runs and not the others."""
    daemon = start_daemon(AGENT.format(folder=tmp_path))
    daemon.wait_for_run("completed")
    assert daemon.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    known = daemon.query("SELECT max(id) AS id FROM runs")[0]["id"]
    daemon.wait_for_run("completed", number=known + 2)
    daemon.stop()
    daemon.wait_for_supervisors()
    return daemon


@pytest.mark.parametrize("points", [4, pytest.param(1000, marks=[pytest.mark.soak, pytest.mark.timeout(3600)])])
def test_a_killed_restore_is_completed_by_another_restore(
    ended: DaemonProcess, start_daemon: StartDaemon, tmp_path: Path, points: int
) -> None:
    backup, before = tmp_path / "backup.db", tmp_path / "before"
    shutil.copytree(ended.state, before)
    highest = ended.query("SELECT max(id) AS id FROM runs")[0]["id"]
    whole = restore(ended, backup, killed_at=0)
    assert whole.returncode == 0, whole.stderr
    lines = int(whole.stderr)
    chance = random.Random()
    for point in sorted(chance.sample(range(1, lines), min(points, lines - 1))):
        shutil.rmtree(ended.state)
        shutil.copytree(before, ended.state)
        assert restore(ended, backup, killed_at=point).returncode == -9, point
        status = ended.cli("runs", "list", "--json")  # what it left can be looked at, or says that it is not there
        assert status.returncode in {0, 1}, (point, status.stderr)
        again = restore(ended, backup, killed_at=0)
        assert again.returncode == 0, (point, again.stderr)
        assert json.loads(again.stdout)["numbers_from"] > highest, point
        left = {path.name for path in ended.state.iterdir()}
        assert not {name for name in left if "restoring" in name}, point
    text = AGENT.format(folder=tmp_path)
    daemon = start_daemon(text)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id > ? AND status = 'completed'", highest)
    daemon.stop()
    assert_no_run_started_twice(tmp_path)
