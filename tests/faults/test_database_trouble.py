"""Promise 8: a full disk and a locked database end nothing, and nothing is started that cannot be recorded."""

import contextlib
import json
import os
import signal
import socket
import sqlite3
import subprocess
import time
from pathlib import Path

import pytest
import structlog

from daemon.store.ballast import LEAST_FREE, Ballast
from daemon.store.outage import Outage
from daemon.store.read_only import open_to_read
from tests.support.api import call
from tests.support.configs import SELDOM, config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon, processes_of
from tests.support.histories import fill as fill_with_runs
from tests.support.ledger import AGENT, assert_no_run_started_twice, assert_the_ledger_is_exact
from tests.support.runs import completed, finished, triggered
from tests.support.small_disks import fill
from tests.support.waiting import DEADLINE, pause, wait_until


def test_a_full_disk_is_reported_and_survived(small_disk: Path, start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = f'[daemon]\nstate_dir = "{small_disk}/state"\n' + AGENT.format(folder=tmp_path)
    daemon = start_daemon(text, state=small_disk / "state")
    daemon.wait_for_run("completed")
    filler = fill(small_disk)
    daemon.wait_for_log("nothing is started")
    started = (tmp_path / "started").read_text().split()
    recorded = {row["id"] for row in daemon.query("SELECT id FROM runs")}
    assert {int(number) for number in started} <= recorded
    before = completed(daemon)
    filler.unlink()
    wait_until(lambda: completed(daemon) > before + 2, what="runs after the disk was freed")
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    assert daemon.stop() == 0


@pytest.mark.parametrize("small_disk", ["160m"], indirect=True)
def test_what_ends_on_a_full_disk_is_recorded_in_the_room_of_the_ballast(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """Nothing is due, so only the end of the run needs room."""
    os.mkfifo(tmp_path / "gate")
    text = config_text(
        daemon={"state_dir": f"{small_disk}/state"},
        control={"socket": "c.sock"},
        agents={
            "slow": {"command": ["cat", f"{tmp_path}/gate"], "schedules": {"s": {"every": SELDOM}}},
            "quick": {"command": ["true"], "schedules": {"s": {"every": SELDOM}}},
        },
    )
    daemon = start_daemon(text, state=small_disk / "state")
    slow = triggered(daemon, "slow/s")
    daemon.wait_for_row("SELECT * FROM runs WHERE id = ? AND delivered_at IS NOT NULL", slow)
    ballast = small_disk / "state/ballast"
    assert ballast.stat().st_blocks * 512 >= ballast.stat().st_size == 16 * 1024 * 1024
    filler = fill(small_disk)
    fill_database(daemon)
    assert ballast.exists()
    (tmp_path / "gate").write_text("")
    daemon.wait_for_run("completed", number=slow)
    assert not ballast.exists()
    filler.unlink()
    assert finished(daemon, "quick/s")["status"] == "completed"
    assert ballast.exists()
    assert daemon.stop() == 0


def test_a_start_on_a_locked_database_is_ready_to_be_asked_why_nothing_starts(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    text = "[control]\nsocket = 'c.sock'\n" + AGENT.format(folder=tmp_path).replace("allow_all", "buffer_all")
    first = start_daemon(text)
    first.wait_for_run("completed")
    assert first.stop() == 0
    newest = first.query("SELECT max(id) AS id FROM runs")[0]["id"]
    with (
        contextlib.closing(sqlite3.connect(first.state / "state.db", isolation_level=None)) as holder,
        socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager,
    ):
        manager.bind(str(tmp_path / "notify"))
        manager.settimeout(DEADLINE)
        holder.execute("BEGIN IMMEDIATE")
        log = tmp_path / "agentcron.log"
        logged = f'{text}[log]\nfile = "{log}"\n'
        second = start_daemon(logged, ready=False, NOTIFY_SOCKET=str(tmp_path / "notify"))
        said = ""
        while "READY=1" not in said:
            said = manager.recv(4096).decode()
        assert "STATUS=0 running, 0 waiting" in said
        assert "starts are held back; the database cannot be written now: database is locked" in said
        assert "starts are held back" in call(second, "GET", "/status").body["daemon"]["amiss"]
        refused = call(second, "POST", "/agents/a/schedules/s/trigger")
        assert refused.status == 503
        assert "database is locked" in refused.body["message"]
        described = second.config.read_text().replace('every = "1s"', 'every = "1s"\ndescription = "reloaded"')
        second.config.write_text(described)
        log.rename(tmp_path / "rotated.log")
        second.process.send_signal(signal.SIGHUP)
        wait_until(log.exists, what="the log file that is opened again")
    second.wait_for_row("SELECT 1 FROM schedules WHERE description = 'reloaded'")
    second.wait_for_row("SELECT 1 FROM runs WHERE id > ? AND status = 'completed'", newest)
    assert call(second, "POST", "/agents/a/schedules/s/trigger").status == 201
    assert call(second, "GET", "/status").body["daemon"]["amiss"] is None
    lines = [*(tmp_path / "rotated.log").read_text().splitlines(), *log.read_text().splitlines()]
    assert [event["event"] for event in map(json.loads, lines) if event["level"] != "info"] == [
        "[daemon] The database cannot be written; retrying",
        "[daemon] Ready to be asked, but nothing is started",
        "[daemon] The database can be written again",
    ]
    assert second.stop() == 0


def test_a_lasting_outage_is_logged_now_and_then() -> None:
    clock = [0.0]
    outage = Outage(lambda: clock[0])
    with structlog.testing.capture_logs() as lines:
        for second in range(1200):
            clock[0] = float(second)
            outage.log("[daemon] The database cannot be written; retrying", OSError("locked"))
            outage.log("[run] Runs are not started", OSError("locked"))
        assert outage.reason == "locked"
        outage.over()
        outage.over()
    assert [line["event"] for line in lines] == [
        *["[daemon] The database cannot be written; retrying", "[run] Runs are not started"] * 2,
        "[daemon] The database can be written again",
    ]


def test_no_daemon_starts_anything_in_the_room_of_a_ballast_that_was_given_up(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    assert ballast.has_room()
    size = (tmp_path / "ballast").stat().st_size
    assert ballast.release()
    given_up = tmp_path / "ballast.given-up"
    assert (given_up.stat().st_size, given_up.stat().st_blocks) == (size, 0)
    later = Ballast(tmp_path)
    assert later._space_to_create() == size + LEAST_FREE
    assert later.has_room()
    assert not given_up.exists()
    assert later._space_to_create() == 4 * LEAST_FREE


@pytest.mark.parametrize("step", [1, 2])
def test_a_ballast_is_made_anew_if_giving_it_up_was_interrupted(tmp_path: Path, step: int) -> None:
    assert Ballast(tmp_path).has_room()
    file = tmp_path / "ballast"
    size = file.stat().st_size
    for length in (0, size)[:step]:
        os.truncate(file, length)
    assert Ballast(tmp_path).has_room()
    assert file.stat().st_blocks * 512 >= size


def test_a_ballast_that_a_file_system_compresses_counts_also_for_later_daemons(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "ballast"
    monkeypatch.setattr("os.posix_fallocate", lambda descriptor, _, size: os.truncate(descriptor, size))
    assert Ballast(tmp_path).has_room()
    first = file.stat()
    assert Ballast(tmp_path).has_room()
    assert file.stat().st_ino == first.st_ino
    os.truncate(file, 0)
    os.truncate(file, first.st_size)
    monkeypatch.undo()
    assert Ballast(tmp_path).has_room()
    assert file.stat().st_blocks * 512 >= first.st_size


@pytest.mark.parametrize("small_disk", ["160m"], indirect=True)
def test_retention_frees_space_on_a_full_disk(small_disk: Path, start_daemon: StartDaemon) -> None:
    text = (
        f'[daemon]\nstate_dir = "{small_disk}/state"\n[control]\nsocket = "c.sock"\n'
        '[retention]\ndays = 30\nevery = "100d"\n[agents.a]\ncommand = ["true"]\n[agents.a.schedules.s]\nevery = "1s"\n'
    )
    start_daemon(text, state=small_disk / "state").stop()
    fill_with_runs(small_disk / "state/state.db", 20_000)
    daemon = start_daemon(text, state=small_disk / "state")
    fill(small_disk)
    daemon.wait_for_log("nothing is started")
    swept = call(daemon, "POST", "/retention/run").body
    assert swept.get("deleted") == 18_000, swept
    assert swept["bytes_freed"] > 10_000_000
    newest = daemon.query("SELECT max(id) AS id FROM runs")[0]["id"]
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id > ? AND status = 'completed'", newest)
    assert (small_disk / "state/ballast").exists()
    assert daemon.query("PRAGMA integrity_check")[0][0] == "ok"


@pytest.mark.parametrize("small_disk", ["160m"], indirect=True)
def test_a_start_on_a_full_disk_releases_the_ballast_and_keeps_ended_runs(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    text = (
        f'[daemon]\nstate_dir = "{small_disk}/state"\n'
        f'[agents.slow]\ncommand = ["cat", "{tmp_path}/gate"]\n[agents.slow.schedules.s]\nevery = "1s"\n'
    )
    first = start_daemon(text, state=small_disk / "state")
    slow = first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    assert first.stop() == 0
    filler = fill(small_disk)
    (tmp_path / "gate").write_text("")
    second = start_daemon(text, state=small_disk / "state", WATCHDOG_USEC="2000000")
    second.wait_for_run("completed", number=slow["id"])
    second.wait_for_log("The disk has too little space")
    wait_until(lambda: "too little space" in second.cli("status").stdout, what="the status that says so")
    said = [event["event"] for event in second.log() if event["level"] == "error"]
    assert len(said) == len(set(said))
    filler.unlink()
    second.wait_for_log("The disk has enough space again")
    wait_until(lambda: "too little space" not in second.cli("status").stdout, what="the status without it")
    (tmp_path / "gate").write_text("")
    second.wait_for_row("SELECT 1 FROM runs WHERE id > ?", slow["id"])
    assert second.stop() == 0


@pytest.mark.parametrize("small_disk", ["4m"], indirect=True)
def test_a_start_without_room_to_open_the_database_waits_for_it(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    text = f'[daemon]\nstate_dir = "{small_disk}/state"\n' + AGENT.format(folder=tmp_path)
    assert start_daemon(text, state=small_disk / "state").stop() == 0
    filler = fill(small_disk)
    daemon = start_daemon(text, state=small_disk / "state", ready=False)
    event = daemon.wait_for_log("[daemon] Nothing is started")
    assert "the disk is full: free some space" in event["reason"]
    assert "the disk is full: free some space" in daemon.cli("status").stderr
    assert daemon.stop() == 0
    again = start_daemon(text, state=small_disk / "state", ready=False)
    again.wait_for_log("[daemon] Nothing is started")
    filler.unlink()
    again.wait_for_log("[daemon] Ready")
    again.wait_for_run("completed")
    assert again.stop() == 0
    assert [event["event"] for event in again.log() if event["level"] == "error"] == ["[daemon] Nothing is started"]


@pytest.mark.parametrize("small_disk", ["160m"], indirect=True)
@pytest.mark.parametrize("trouble", ["full", "read-only"])
def test_on_a_disk_that_takes_no_writes_all_can_still_be_read(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path, trouble: str
) -> None:
    text = f'[daemon]\nstate_dir = "{small_disk}/state"\n' + AGENT.format(folder=tmp_path)
    daemon = start_daemon(text, state=small_disk / "state")
    daemon.wait_for_run("completed")
    assert daemon.stop() == 0
    left = (daemon.state / "state.db").read_bytes()

    def allow_nothing() -> None:
        if trouble == "full":
            fill(small_disk)
        else:
            subprocess.run(["mount", "-o", "remount,ro", str(small_disk)], check=True)

    allow_nothing()
    assert daemon.cli("status").returncode == 3
    assert "completed" in daemon.cli("runs", "list").stdout
    assert daemon.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    found = json.loads(daemon.cli("doctor", "--json").stdout)["findings"]
    assert [one["severity"] for one in found if one["about"] == "database"] == ["ok"]
    subprocess.run(["mount", "-o", "remount,rw", str(small_disk)], check=True)
    (small_disk / "filler").unlink(missing_ok=True)
    (daemon.state / "state.db-wal").write_bytes(b"what a daemon left")
    allow_nothing()
    refused = daemon.cli("runs", "list")
    assert refused.returncode == 1
    why = {"full": "the disk is full: free some space", "read-only": "the disk is mounted read-only: mount it writable"}
    assert why[trouble] in refused.stderr
    found = json.loads(daemon.cli("doctor", "--json").stdout)["findings"]
    [fix] = [one["mend"] for one in found if one["about"] == "database"]
    assert fix == "fix what prevents reading it, and run doctor again"
    refused = daemon.cli("restore", str(tmp_path / "backup.db"))
    assert refused.returncode == 1
    assert {"full": "No space left on device", "read-only": "Read-only file system"}[trouble] in refused.stderr
    assert "None" not in refused.stderr
    assert (daemon.state / "state.db").read_bytes() == left


def test_a_database_in_use_is_not_taken_for_an_idle_one(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(AGENT.format(folder=tmp_path))
    daemon.wait_for_run("completed")
    assert daemon.stop() == 0
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", isolation_level=None)) as holder:
        holder.execute("PRAGMA locking_mode = EXCLUSIVE")
        holder.execute("BEGIN IMMEDIATE")
        with pytest.raises(sqlite3.OperationalError, match="locked"):
            open_to_read(daemon.state / "state.db")


@pytest.mark.parametrize("small_disk", ["160m"], indirect=True)
def test_little_room_is_room_enough_for_a_smaller_ballast(
    small_disk: Path, start_daemon: StartDaemon, tmp_path: Path
) -> None:
    with (small_disk / "filler").open("wb") as filler:
        os.posix_fallocate(filler.fileno(), 0, 150 * 1024 * 1024)
    text = f'[daemon]\nstate_dir = "{small_disk}/state"\n' + AGENT.format(folder=tmp_path)
    daemon = start_daemon(text, state=small_disk / "state")
    daemon.wait_for_run("completed")
    assert 1024 * 1024 < (small_disk / "state/ballast").stat().st_size < 4 * 1024 * 1024


def test_a_ballast_that_cannot_be_removed_is_no_reason_to_fail(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    assert ballast.has_room()
    assert ballast.release()
    assert not ballast.release()
    (tmp_path / "ballast").mkdir()
    assert not ballast.release()


def test_a_removed_ballast_is_created_again(tmp_path: Path) -> None:
    ballast = Ballast(tmp_path)
    assert ballast.has_room()
    (tmp_path / "ballast").unlink()
    assert ballast.has_room()
    assert (tmp_path / "ballast").exists()


@pytest.mark.parametrize("mode", ["SIGINT", "SIGTERM"])
def test_agents_stopped_while_the_database_was_unwritable_are_cancelled(start_daemon: StartDaemon, mode: str) -> None:
    text = (
        '[daemon]\nstate_dir = "state"\non_stop = "cancel"\nstop_timeout = "2s"\n'
        '[agents.a]\ncommand = ["sleep", "300"]\non_interrupt = "rerun"\nkill_grace = "1s"\n'
        '[agents.a.schedules.s]\nevery = "1s"\n'
    )
    first = start_daemon(text)
    run = first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    with contextlib.closing(sqlite3.connect(first.state / "state.db", isolation_level=None)) as holder:
        holder.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        assert first.stop(signal.Signals[mode]) == 0
        assert time.monotonic() - began < 2 + 5
        assert processes_of(run["idempotency_key"]) == []
    first.wait_for_log("Left for the next daemon to record")
    second = start_daemon(text)
    ended = second.wait_for_row("SELECT * FROM runs WHERE id = ? AND completed_at IS NOT NULL", run["id"])
    assert (ended["status"], ended["error"]) == ("cancelled", "cancelled by config: the daemon was stopped")


def fill_database(daemon: DaemonProcess) -> None:
    """Use up the pages that the database and its log still have, so that the next record needs room."""
    connection = sqlite3.connect(daemon.state / "state.db", isolation_level=None, timeout=60)
    with contextlib.closing(connection), pytest.raises(sqlite3.OperationalError, match="full"):
        insert_without_end(connection)


def insert_without_end(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE filler (x BLOB)")
    while True:
        connection.execute("INSERT INTO filler VALUES (zeroblob(4000))")


@pytest.mark.parametrize("seconds", [4, pytest.param(60, marks=[pytest.mark.soak, pytest.mark.timeout(300)])])
def test_a_locked_database_is_waited_for(start_daemon: StartDaemon, tmp_path: Path, seconds: int) -> None:
    daemon = start_daemon(AGENT.format(folder=tmp_path))
    daemon.wait_for_run("completed")
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", isolation_level=None)) as connection:
        connection.execute("BEGIN IMMEDIATE")
        before = len((tmp_path / "started").read_text().split())
        pause(seconds)
        assert len((tmp_path / "started").read_text().split()) <= before + 1  # what was recorded before the lock
        daemon.wait_for_log("cannot be")
    wait_until(lambda: completed(daemon) >= before + seconds, what="runs after the lock", deadline=30)
    assert_the_ledger_is_exact(daemon)
    assert_no_run_started_twice(tmp_path)
    outcomes = {row["outcome"] for row in daemon.query("SELECT outcome FROM fires")}
    assert outcomes <= {"launched", "skipped_missed"}
    assert daemon.process.poll() is None
