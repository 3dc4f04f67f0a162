"""Promise 2 against the disk itself: what is acknowledged was fsynced, and an input/output error loses nothing."""

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.ledger import AGENT, assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.support.runs import completed
from tests.support.supervisors import spec_in
from tests.support.waiting import wait_until

needs_strace = pytest.mark.skipif(shutil.which("strace") is None, reason="strace is not installed")
WRITES = """
import asyncio, os, sys
from datetime import UTC, datetime
from pathlib import Path
from daemon.store.state_dir import open_state

async def main():
    async with open_state(Path(sys.argv[1]), datetime.now(UTC), accept_data_loss=False) as database:
        for number in range(20):
            await database.write(lambda tx: tx.execute("CREATE TABLE t%d (x)" % number))
            os.write(1, b"acknowledged %d\\n" % number)

asyncio.run(main())
"""

SUPERVISE = """
import os, socket, sys
from daemon.agents.process.supervisor import status, supervisor
status.preallocate(sys.argv[1])
ours, theirs = socket.socketpair()
if os.fork() == 0:
    ours.close()
    supervisor.supervise(theirs)
    os._exit(0)
theirs.close()
ours.recv(4)
body = sys.argv[2].encode()
ours.sendall(supervisor.LENGTH.pack(len(body)) + body)
os.wait()
"""


@needs_strace
def test_each_acknowledged_write_was_fsynced(tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    calls = "trace=pwrite64,fdatasync,fsync,write"
    subprocess.run(["strace", "-f", "-y", "-o", trace, "-e", calls, sys.executable, "-c", WRITES, tmp_path], check=True)
    unsynced, acknowledged = False, 0
    for line in trace.read_text().splitlines():
        if re.search(r"pwrite64\(\d+<[^>]*state\.db-wal>", line):
            unsynced = True
        elif re.search(r"f(?:data)?sync\(\d+<[^>]*state\.db-wal>\)\s+= 0", line):
            unsynced = False
        elif '"acknowledged ' in line:
            assert not unsynced, line
            acknowledged += 1
    assert acknowledged == 20


@needs_strace
def test_the_outcome_of_a_run_is_on_disk_before_its_supervisor_ends(tmp_path: Path) -> None:
    trace, folder = tmp_path / "trace", tmp_path / "run"
    folder.mkdir()
    spec = json.dumps(spec_in(folder))
    calls = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=pwrite64,fsync,exit_group", sys.executable, "-c"]
    subprocess.run([*calls, SUPERVISE, str(folder), spec], check=True, timeout=30)
    lines = [line for line in trace.read_text().splitlines() if "/status>" in line]
    assert [line.split(maxsplit=1)[1].split("(")[0] for line in lines[-2:]] == ["pwrite64", "fsync"]
    assert ", 2048, 2048)" in lines[-2]  # the place of the exit record


@contextmanager
def failing(daemon: DaemonProcess, calls: str) -> Iterator[None]:
    """Have the daemon's system calls fail as on a dying disk."""
    command = ["strace", "-f", "-p", str(daemon.process.pid), "-o", "/dev/null", "-e", f"trace={calls}"]
    with subprocess.Popen([*command, "-e", f"inject={calls}:error=EIO"], stderr=subprocess.PIPE) as strace:
        assert strace.stderr is not None
        assert b"attached" in strace.stderr.readline()
        yield
        strace.terminate()


@needs_strace
@pytest.mark.parametrize("calls", ["fdatasync,fsync", "pwrite64"])
def test_an_input_output_error_is_reported_and_survived(start_daemon: StartDaemon, tmp_path: Path, calls: str) -> None:
    daemon = start_daemon(AGENT.format(folder=tmp_path))
    daemon.wait_for_run("completed")
    with failing(daemon, calls):
        daemon.wait_for_log("cannot be recorded")
    before = completed(daemon)
    wait_until(lambda: completed(daemon) > before + 2, what="runs after the errors")
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    assert daemon.stop() == 0


def test_a_read_only_state_dir_is_refused_with_its_reason(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon(AGENT.format(folder=tmp_path))
    first.stop()
    mounted = subprocess.run(["mount", "--bind", first.state, first.state], check=False, capture_output=True)
    if mounted.returncode != 0:
        pytest.skip("mounting needs root")
    try:
        subprocess.run(["mount", "-o", "remount,bind,ro", first.state], check=True)
        second = start_daemon(AGENT.format(folder=tmp_path), ready=False)
        assert second.process.wait(20) == 1
        assert "Read-only file system" in second.log_text()
        assert "Traceback" not in second.log_text()
    finally:
        subprocess.run(["umount", "--lazy", first.state], check=True)


def test_a_log_of_the_database_that_lost_its_tail_is_noticed(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon(AGENT.format(folder=tmp_path))
    first.wait_for_run("completed")
    first.kill()
    tail = first.state / "state.db-wal"
    whole = tail.read_bytes()
    tail.write_bytes(whole[: len(whole) // 2])
    second = start_daemon(AGENT.format(folder=tmp_path), ready=False)
    assert second.process.wait(20) == 1
    assert "its last writes are lost" in second.log_text()
    assert "--accept-data-loss" in second.log_text()
    assert tail.read_bytes() == whole[: len(whole) // 2]
    tail.write_bytes(whole)
    start_daemon(AGENT.format(folder=tmp_path))


def test_with_an_old_copy_of_the_database_nothing_that_ran_is_started_again(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    text = (
        f"[agents.a]\ncommand = ['sh', '-c', 'echo $AGENTCRON_SCHEDULED_FOR >> {tmp_path}/started']\n"
        "max_concurrent = 4\n"
        '[agents.a.schedules.s]\nevery = "1s"\ncatchup = "all"\noverlap = "allow_all"\n'
    )
    first = start_daemon(text)
    first.wait_for_run("completed", number=2)
    first.stop()
    shutil.copy(first.state / "state.db", tmp_path / "copy.db")
    second = start_daemon(text)
    newest = first.query("SELECT max(id) AS id FROM runs")[0]["id"]
    second.wait_for_run("completed", number=newest + 3)
    second.stop()
    for file in first.state.glob("state.db*"):
        file.unlink()
    shutil.copy(tmp_path / "copy.db", first.state / "state.db")
    (first.state / "state.db").chmod(0o666)
    third = start_daemon(text, arguments=("--accept-data-loss",))
    third.wait_for_row("SELECT 1 FROM runs WHERE id > 1000 AND status = 'completed'")
    third.stop()
    started = (tmp_path / "started").read_text().split()
    assert len(started) == len(set(started))
    lost = third.query("SELECT outcome, reason FROM fires WHERE reason LIKE 'unknown whether it ran%'")
    assert {row["outcome"] for row in lost} == {"skipped_missed"}
    assert (first.state / "state.db").stat().st_mode & 0o777 == 0o600
    assert_the_ledger_is_exact(third)
