"""The daemon as a process: start, signals, stop modes, reload, log file, systemd, adoption."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from daemon.agents.process.supervisor import status, tree
from daemon.runs.hook_tokens import HookTokens, open_key
from tests.support.configs import SELDOM, Table, one_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in, processes_of
from tests.support.runs import begun
from tests.support.waiting import pause, wait_until


def gated(folder: Path, *, code: int = 0, daemon: Table | None = None, **keys: Any) -> str:  # noqa: ANN401 - of any setting
    """Return an agent that ends with a status as soon as somebody opens the gate."""
    os.mkfifo(folder / "gate")
    return one_agent(f"echo begun; cat {folder}/gate; echo done; exit {code}", daemon=daemon, **keys)


def test_sigterm_detaches_and_the_next_daemon_adopts(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = gated(tmp_path, code=5)
    first = start_daemon(text)
    run = begun(first)
    assert first.stop() == 0
    assert first.wait_for_log("[run] Left running")["runs"] == 1
    assert tree.start_of(int(str(run["pid"]))) == run["pid_started"]
    second = start_daemon(text)
    (tmp_path / "gate").write_text("go\n")
    row = second.wait_for_run("failed", number=1)
    assert row["exit_code"] == 5
    assert second.output(1) == "begun\ngo\ndone\n"


def test_an_exit_while_no_daemon_lived_is_not_lost(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = gated(tmp_path, code=7)
    first = start_daemon(text)
    run = begun(first)
    first.kill()
    (tmp_path / "gate").write_text("go\n")
    wait_until(lambda: tree.start_of(int(str(run["pid"]))) is None)
    ended_at = datetime.now(UTC)
    second = start_daemon(text)
    row = second.wait_for_run("failed", number=1)
    assert row["exit_code"] == 7
    assert datetime.fromisoformat(row["completed_at"]) <= ended_at  # its end, not its discovery
    took = datetime.fromisoformat(row["completed_at"]) - datetime.fromisoformat(row["started_at"])
    assert second.wait_for_log("[run] Run failed")["duration_ms"] == took // timedelta(milliseconds=1)


SLOW_ADOPTION = """
import asyncio
from daemon.agents.process.agent import SupervisedAgent
resume = SupervisedAgent.resume
async def slowly(self, work):
    await asyncio.sleep(1)
    return await resume(self, work)
SupervisedAgent.resume = slowly
"""


def test_a_run_that_ended_while_no_daemon_lived_overlaps_no_due_time(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    text = f'[agents.a]\ncommand = ["cat", "{tmp_path}/gate"]\n[agents.a.schedules.s]\nevery = "1s"\n'
    first = start_daemon(text)
    first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    assert first.stop() == 0
    (tmp_path / "gate").write_text("")
    first.wait_for_supervisors()
    pause(1.5)  # in which a due time is missed
    second = start_daemon(text, slowed=SLOW_ADOPTION)
    second.wait_for_run("running", number=2)
    [caught_up, *_] = [event for event in second.log() if event.get("outcome") in {"launched", "skipped_overlap"}]
    assert caught_up["outcome"] == "launched"


def test_a_killed_supervisor_interrupts_the_run_and_leaves_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun; setsid sleep 300 & env -i sleep 300"))
    run = begun(daemon)
    os.kill(int(str(run["pid"])), signal.SIGKILL)
    row = daemon.wait_for_run("interrupted", number=1)
    assert "its supervisor was killed or failed" in row["error"]
    assert processes_of(str(run["idempotency_key"])) == []


def test_an_interrupted_run_is_rerun_if_configured(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun; [ $AGENTCRON_ATTEMPT -gt 1 ] || sleep 300", on_interrupt="rerun"))
    run = begun(daemon)
    os.kill(int(str(run["pid"])), signal.SIGKILL)
    assert daemon.wait_for_run("continued_as_new", number=1)["next_run_id"] == 2
    assert daemon.wait_for_run("completed", number=2)["attempt"] == 2


def test_a_run_that_was_never_released_is_started_after_all(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = gated(tmp_path)
    first = start_daemon(text)
    begun(first)
    first.kill()
    run = first.query("SELECT * FROM runs WHERE id = 1")[0]
    os.kill(run["pid"], signal.SIGKILL)
    wait_until(lambda: tree.start_of(run["pid"]) is None)
    for process in processes_of(run["idempotency_key"]):
        tree.send(process, signal.SIGKILL)
    key = HookTokens(open_key(first.state)).record_key(run["idempotency_key"])
    status.preallocate(str(first.state / "runs/1"), key)  # as if the supervisor had ended before its first record
    with contextlib.closing(sqlite3.connect(first.state / "state.db", isolation_level=None)) as connection:
        connection.execute("UPDATE runs SET delivered_at = NULL WHERE id = 1")  # ... and so before it was confirmed
    second = start_daemon(text)
    assert second.wait_for_log("[run] Run pending", run_id=1)["error"]
    wait_until(lambda: second.query("SELECT pid FROM runs WHERE id = 1")[0]["pid"] not in {None, run["pid"]})
    (tmp_path / "gate").write_text("go\n")
    assert second.wait_for_run("completed", number=1)["attempt"] == 1


def nursery_of(daemon: DaemonProcess) -> tree.Process:
    """Return the one child of a daemon: all others are below it, and may end at any moment."""
    found = [tree.parent_of(process.pid) for process in tree.descendants(daemon.process.pid)]
    [nursery] = [one[0] for one in found if one is not None and one[1] == daemon.process.pid]
    return nursery


def test_the_nursery_may_die(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = gated(tmp_path, max_concurrent=50, daemon={"max_concurrent_runs": 50}, schedule={"overlap": "allow_all"})
    daemon = start_daemon(text)
    begun(daemon)
    nursery = nursery_of(daemon)
    os.kill(nursery.pid, signal.SIGKILL)
    number = len(daemon.query("SELECT id FROM runs")) + 1
    begun(daemon, number)
    assert daemon.query("SELECT status FROM runs WHERE id = 1")[0]["status"] == "running"


def test_a_stopped_nursery_stops_no_run(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun"))
    begun(daemon)
    nursery = nursery_of(daemon)
    os.kill(nursery.pid, signal.SIGSTOP)
    number = len(daemon.query("SELECT id FROM runs")) + 1
    daemon.wait_for_run("completed", number=number, deadline=30)
    assert tree.start_of(nursery.pid) is None
    assert daemon.stop() == 0


def test_all_that_a_stopped_daemon_left_is_cancelled_by_the_next_one(start_daemon: StartDaemon) -> None:
    script = "echo begun; sleep 300"
    first = start_daemon(one_agent(script, max_concurrent=2, kill_grace="1s", schedule={"every": SELDOM}))
    for _ in range(3):
        assert first.cli("schedules", "trigger", "a/s").returncode == 0
    begun(first, 2)
    first.stop()
    told = first.cli("runs", "cancel", "--all")
    assert (told.returncode, told.stdout) == (0, "Cancelling 3 runs when the daemon starts.\n")
    second = start_daemon(one_agent(script, max_concurrent=2, kill_grace="1s"))
    for run in (1, 2, 3):
        second.wait_for_run("cancelled", number=run)


@pytest.mark.parametrize("how", ["on_stop", "SIGINT"])
def test_cancel_ends_every_run(start_daemon: StartDaemon, how: str) -> None:
    setting = {"on_stop": "cancel"} if how == "on_stop" else {}
    daemon = start_daemon(one_agent("trap '' TERM; echo begun; sleep 300", kill_grace="1s", daemon=setting))
    run = begun(daemon)
    assert daemon.stop(signal.SIGTERM if how == "on_stop" else signal.SIGINT) == 0
    row = daemon.query("SELECT * FROM runs WHERE id = 1")[0]
    assert row["status"] == "cancelled"
    assert "the daemon was stopped" in row["error"]
    assert processes_of(str(run["idempotency_key"])) == []


def test_cancel_takes_no_longer_than_stop_timeout(start_daemon: StartDaemon) -> None:
    text = one_agent(
        "trap '' TERM; echo begun; sleep 300", kill_grace="1h", daemon={"on_stop": "cancel", "stop_timeout": "1s"}
    )
    daemon = start_daemon(text)
    begun(daemon)
    started = time.monotonic()
    daemon.stop()
    assert time.monotonic() - started < 1 + 5
    assert daemon.query("SELECT status FROM runs WHERE id = 1")[0]["status"] == "cancelled"


def test_a_second_signal_does_not_wait(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("trap '' TERM; echo begun; sleep 300", kill_grace="1h"))
    begun(daemon)
    daemon.process.send_signal(signal.SIGINT)
    daemon.wait_for_log("[daemon] Stopping")
    assert daemon.stop(signal.SIGINT, deadline=5) == 0
    assert daemon.query("SELECT status FROM runs WHERE id = 1")[0]["status"] == "cancelled"


def test_drain_waits_for_runs_and_starts_none(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(gated(tmp_path, daemon={"on_stop": "drain"}))
    begun(daemon)
    daemon.process.send_signal(signal.SIGTERM)
    daemon.wait_for_log("[daemon] Stopping", mode="drain")
    (tmp_path / "gate").write_text("go\n")
    assert daemon.process.wait(10) == 0
    rows = daemon.query("SELECT status, count(*) AS n FROM runs WHERE status <> 'pending' GROUP BY 1")
    assert [(row["status"], row["n"]) for row in rows] == [("completed", 1)]


def test_a_second_daemon_names_the_first_and_disturbs_nothing(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun"))
    other = daemon.cli("run")
    assert other.returncode == 1
    assert f"pid {daemon.process.pid}" in other.stderr
    assert "Traceback" not in other.stderr
    daemon.wait_for_run("completed", number=len(daemon.query("SELECT id FROM runs")) + 1)


def test_a_stop_does_not_wait_for_a_locked_database(start_daemon: StartDaemon) -> None:
    text = one_agent("echo begun; sleep 300", max_concurrent=3, daemon={"on_stop": "cancel", "stop_timeout": "1s"})
    daemon = start_daemon(text + 'overlap = "allow_all"\n')
    begun(daemon, 2)
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        started = time.monotonic()
        daemon.stop()
        assert time.monotonic() - started < 1 + 5 + 5  # and what the lock's own time limits add
    second = start_daemon(text.replace("[agents.a.schedules.s]", "[agents.a.schedules.s]\npaused = true"))
    for number in (1, 2):
        row = second.wait_for_row("SELECT * FROM runs WHERE id = ? AND completed_at IS NOT NULL", number)
        assert row["status"] in {"cancelled", "interrupted"}


def test_signals_before_the_daemon_is_ready_do_not_end_it(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(one_agent("echo begun"), ready=False)
    wait_until((daemon.state / "daemon.lock").exists)
    for _ in range(20):
        daemon.process.send_signal(signal.SIGHUP)
    daemon.wait_for_log("[daemon] Ready")
    assert daemon.stop() == 0


def test_a_folder_of_any_name_will_do(tmp_path: Path) -> None:
    folder = Path(os.fsdecode(os.fsencode(tmp_path) + b"/n\xff m"))
    folder.mkdir()
    with daemons_in(folder) as start:
        daemon = start('[agents.a]\ncommand = ["true"]\n[agents.a.schedules.s]\nevery = "1s"\n')
        daemon.wait_for_run("completed")
        assert f"pid {daemon.process.pid}" in daemon.cli("status").stdout


# log file


def test_the_log_file_is_reopened_when_moved_away_and_on_sighup(start_daemon: StartDaemon, tmp_path: Path) -> None:
    path = tmp_path / "agentcron.log"
    daemon = start_daemon('[log]\nfile = "agentcron.log"\n' + one_agent("echo begun"), ready=False)
    wait_until(lambda: path.exists() and "Run completed" in path.read_text())
    assert path.stat().st_mode & 0o777 == 0o640
    path.rename(tmp_path / "old.log")
    daemon.process.send_signal(signal.SIGHUP)
    wait_until(lambda: path.exists() and "[config] Reloaded" in path.read_text())
    path.rename(tmp_path / "older.log")
    wait_until(lambda: path.exists() and "Run completed" in path.read_text())
    assert path.stat().st_mode & 0o777 == 0o640
    for file in tmp_path.glob("*.log"):
        assert all(json.loads(line)["timestamp"].endswith("Z") for line in file.read_text().splitlines())


def test_a_log_that_cannot_be_opened_is_a_config_error(start_daemon: StartDaemon) -> None:
    daemon = start_daemon('[log]\nfile = "/nowhere/agentcron.log"\n' + one_agent("true"), ready=False)
    assert daemon.process.wait(20) == 2
    assert "log.file: cannot open" in daemon.log_text()
    assert "Traceback" not in daemon.log_text()


# start


@pytest.mark.parametrize("place", ["/proc/nowhere", "/dev/null", "dangling"])
def test_an_unusable_state_dir_is_reported_without_a_traceback(
    start_daemon: StartDaemon, tmp_path: Path, place: str
) -> None:
    (tmp_path / "dangling").symlink_to("/nowhere/at/all")
    text = f'[daemon]\nstate_dir = "{place}"\n[agents.a]\ncommand = ["true"]\n'
    daemon = start_daemon(text, ready=False)
    assert daemon.process.wait(20) == 1
    assert place in daemon.log_text()
    assert daemon.cli("status").returncode == 3
    assert "Traceback" not in daemon.log_text()


def test_help_is_fast(tmp_path: Path) -> None:
    """The bound is generous: what matters is that nothing heavy is imported."""
    heavy = ["aiosqlite", "apscheduler", "pydantic", "sqlite3", "structlog", "rich", "asyncio"]
    code = "import sys; sys.argv = ['agentcron', '--help']\nfrom daemon.__main__ import main\n"
    code += "try: main()\nexcept SystemExit: pass\n"
    code += f"print([name for name in {heavy} if name in sys.modules])"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=tmp_path)
    assert found.stdout.splitlines()[-1] == "[]"
