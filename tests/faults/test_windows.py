"""Promises 1 to 3 when the daemon, and what it started, die in a particular window of a run's life.

Most of these windows are a millisecond wide, so each gets a delay, and the kill falls into it.
"""

import contextlib
import os
import signal
import sqlite3
from pathlib import Path

import pytest

from daemon.agents.process.supervisor import status, tree
from tests.support.daemon_process import DaemonProcess, StartDaemon, processes_of
from tests.support.ledger import assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.support.waiting import wait_until

CONFIG = """\
[agents.a]
command = ["sh", "-c", "echo $AGENTCRON_RUN_ID >> {folder}/started; {rest}"]
[agents.a.schedules.s]
every = "1s"
"""
IN_THE_FIRES_TRANSACTION = """
import time
import daemon.fires.ledger as ledger
def slow(*arguments, real=ledger.record_fire, **keys):
    real(*arguments, **keys)
    time.sleep(3600)
ledger.record_fire = slow
"""
AFTER_THE_FIRES_COMMIT = """
import asyncio
from daemon.runs.queue import Queue
async def slow(self):
    await asyncio.sleep(3600)
Queue._start_runs = slow
"""
BEFORE_THE_IDENTITY = """
import asyncio
from daemon.runs.delivery_stages import Stages
async def slow(self, run_id, identity):
    open(FLAG, "w").write(str(identity.pid))
    await asyncio.sleep(3600)
Stages._identified = slow
"""
BEFORE_GO = """
import asyncio
from daemon.agents.process.launcher import SupervisorHandle
async def slow(self, spec):
    await asyncio.sleep(3600)
SupervisorHandle.release = slow
"""
IN_GO = """
import asyncio, json
from daemon.agents.process.launcher import LENGTH, SupervisorHandle
async def slow(self, spec):
    body = json.dumps(spec).encode()
    await asyncio.get_running_loop().sock_sendall(self._channel, LENGTH.pack(len(body)) + body[:-1])
    open(FLAG, "w").write("half")
    await asyncio.sleep(3600)
SupervisorHandle.release = slow
"""
AFTER_GO = """
import asyncio
from daemon.runs.delivery_stages import Stages
async def slow(self, run, settings):
    open(FLAG, "w").write("released")
    await asyncio.sleep(3600)
Stages._delivered = slow
"""
IN_THE_SUPERVISOR = """
import daemon.agents.process.launcher as launcher
patch = '''
import time
from process.supervisor.supervisor import Supervisor
def slow(self, *arguments):
    open({flag!r}, "w").write("there")
    time.sleep(3600)
Supervisor.{method} = slow
'''.format(flag=FLAG, method=METHOD)
launcher._CODE = launcher._CODE.replace("from process.supervisor", patch + "from process.supervisor")
"""
RUNNING = "SELECT * FROM runs WHERE status = 'running' AND pid IS NOT NULL"


def slow_daemon(start_daemon: StartDaemon, folder: Path, slowed: str, *, rest: str = "true") -> DaemonProcess:
    text = CONFIG.format(folder=folder, rest=rest)
    return start_daemon(text, slowed=f"FLAG = {str(folder / 'flag')!r}\n{slowed}")


def flag(folder: Path) -> str:
    return wait_until(lambda: (folder / "flag").read_text() if (folder / "flag").exists() else "", what="the window")


def started(folder: Path) -> list[str]:
    return (folder / "started").read_text().split() if (folder / "started").exists() else []


def assert_started_once(daemon: DaemonProcess, folder: Path) -> None:
    """The first run completes under the next daemon, and no run is started twice."""
    run = daemon.wait_for_run("completed", number=1)
    assert run["attempt"] == 1
    assert started(folder).count("1") == 1
    assert_no_run_started_twice(folder)
    assert_the_ledger_is_exact(daemon)


def test_killed_in_the_fires_transaction(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = slow_daemon(start_daemon, tmp_path, IN_THE_FIRES_TRANSACTION)
    wait_until(lambda: locked(first), what="a transaction under way")
    first.kill()
    assert first.query("SELECT * FROM fires") == first.query("SELECT * FROM runs") == []
    assert_started_once(start_daemon(CONFIG.format(folder=tmp_path, rest="true")), tmp_path)


def locked(daemon: DaemonProcess) -> bool:
    """Tell whether the daemon's transaction stays open: two seconds are more than any that is not slowed."""
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", timeout=2, isolation_level=None)) as connection:
        try:
            connection.execute("BEGIN IMMEDIATE")
        except sqlite3.OperationalError:
            return True
        connection.execute("ROLLBACK")
        return False


def test_killed_after_the_fires_commit(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = slow_daemon(start_daemon, tmp_path, AFTER_THE_FIRES_COMMIT)
    first.wait_for_run("pending")
    first.kill()
    assert_started_once(start_daemon(CONFIG.format(folder=tmp_path, rest="true")), tmp_path)


@pytest.mark.parametrize("slowed", [BEFORE_THE_IDENTITY, BEFORE_GO, IN_GO], ids=["before", "committed", "half of go"])
@pytest.mark.parametrize("together", [False, True], ids=["daemon", "daemon and supervisor"])
def test_killed_between_commit_and_go(
    start_daemon: StartDaemon, tmp_path: Path, slowed: str, *, together: bool
) -> None:
    first = slow_daemon(start_daemon, tmp_path, slowed)
    pid = int(flag(tmp_path)) if slowed is BEFORE_THE_IDENTITY else first.wait_for_row(RUNNING)["pid"]
    if slowed is IN_GO:
        flag(tmp_path)
    supervisor = tree.Process(pid, tree.start_of(pid) or 0)
    first.kill()
    if together:
        tree.send(supervisor, signal.SIGKILL)
    wait_until(lambda: tree.start_of(pid) != supervisor.started, what="the end of a supervisor without a daemon")
    assert started(tmp_path) == []
    assert_started_once(start_daemon(CONFIG.format(folder=tmp_path, rest="true")), tmp_path)


def test_killed_after_go_before_the_marker(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    first = slow_daemon(start_daemon, tmp_path, AFTER_GO, rest=f"cat {tmp_path}/gate; exit 7")
    flag(tmp_path)
    first.kill()
    second = start_daemon(CONFIG.format(folder=tmp_path, rest="true"))
    (tmp_path / "gate").write_text("")
    assert second.wait_for_run("failed", number=1)["exit_code"] == 7
    assert started(tmp_path).count("1") == 1


@pytest.mark.parametrize("daemon_too", [False, True], ids=["supervisor", "supervisor and daemon"])
@pytest.mark.parametrize("method", ["_start", "_exit_record"], ids=["exec record to exec", "exit to its record"])
def test_the_supervisor_killed_in_its_own_windows(
    start_daemon: StartDaemon, tmp_path: Path, method: str, *, daemon_too: bool
) -> None:
    daemon = slow_daemon(start_daemon, tmp_path, f"METHOD = {method!r}\n{IN_THE_SUPERVISOR}")
    flag(tmp_path)
    run = daemon.wait_for_row(RUNNING)
    assert status.may_have_started(str(daemon.state / "runs/1"))
    if daemon_too:
        daemon.kill()
    tree.send(tree.Process(run["pid"], run["pid_started"]), signal.SIGKILL)
    if daemon_too:
        daemon = start_daemon(CONFIG.format(folder=tmp_path, rest="true"))
    row = daemon.wait_for_run("interrupted", number=1)
    assert "supervisor" in row["error"]
    assert processes_of(run["idempotency_key"]) == []
    assert started(tmp_path).count("1") == (1 if method == "_exit_record" else 0)
