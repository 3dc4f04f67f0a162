"""Backups: made while the daemon writes, verified, and put back without anything being started twice."""

import contextlib
import json
import os
import pty
import shutil
import signal
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from daemon.agents.process.launcher import living_supervisors
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.database import damaged

TICK = "[agents.a]\ncommand = ['true']\n[agents.a.schedules.s]\nevery = '1s'\ncatchup = 'all'\n"
SPOILT = {
    "newer": "PRAGMA user_version = 9999",
    "older": "PRAGMA user_version = 1",
    "leaner": "DROP INDEX runs_queue",
    "triggered": "CREATE TRIGGER x AFTER INSERT ON runs BEGIN DELETE FROM runs; END",
    "foreign": "CREATE TABLE guests (name)",
}


def rows(file: Path, sql: str) -> list[tuple[object, ...]]:
    with contextlib.closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True)) as connection:
        return connection.execute(sql).fetchall()


def backed_up(daemon: DaemonProcess, target: Path) -> dict[str, object]:
    done = daemon.cli("backup", "--json", str(target))
    assert done.returncode == 0, done.stderr
    document: dict[str, object] = json.loads(done.stdout)
    return document


def test_a_backup_is_one_valid_file_made_while_the_daemon_runs(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    target = tmp_path / "kept" / "backup.db"
    target.parent.mkdir()
    view = backed_up(daemon, target)
    assert view["bytes"] == target.stat().st_size
    assert target.stat().st_mode & 0o777 == 0o600
    assert list(target.parent.iterdir()) == [target]
    assert rows(target, "PRAGMA integrity_check") == [("ok",)]
    [(made_at, key)] = rows(target, "SELECT made_at, hook_key FROM backup")
    assert (made_at, key) == (view["made_at"], (daemon.state / "hook.key").read_bytes())
    [(runs, highest)] = rows(target, "SELECT count(*), max(id) FROM runs")
    assert (view["runs"], view["highest_run"]) == (runs, highest)
    again = backed_up(daemon, target)  # an earlier backup is replaced
    assert again["made_at"] != made_at


@pytest.mark.parametrize("place", ["state/inside", "notes.txt", "folder", "nowhere/backup.db", "a" * 300])
def test_a_backup_replaces_nothing_else(start_daemon: StartDaemon, tmp_path: Path, place: str) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    (tmp_path / "folder").mkdir()
    daemon = start_daemon(TICK)
    refused = daemon.cli("backup", str(tmp_path / place))
    assert refused.returncode == 1
    assert place in refused.stderr
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_database_that_lost_its_tail_replaces_no_backup(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    backed_up(daemon, tmp_path / "backup.db")
    daemon.stop()
    kept = (tmp_path / "backup.db").read_bytes()
    witness = json.loads((daemon.state / "witness.json").read_text())
    (daemon.state / "witness.json").write_text(json.dumps({**witness, "highest_run": 9999}))
    refused = daemon.cli("backup", str(tmp_path / "backup.db"))
    assert refused.returncode == 1
    assert "its last writes are lost" in refused.stderr
    assert (tmp_path / "backup.db").read_bytes() == kept
    restored = json.loads(daemon.cli("restore", "--json", str(tmp_path / "backup.db")).stdout)
    assert restored["numbers_from"] > 9999  # above the highest ever given, which only the witness knows


def test_a_link_is_written_through(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    (tmp_path / "latest.db").symlink_to("monday.db")
    backed_up(daemon, tmp_path / "latest.db")
    assert (tmp_path / "latest.db").is_symlink()
    assert rows(tmp_path / "monday.db", "PRAGMA integrity_check") == [("ok",)]


def test_a_damaged_database_gives_no_backup(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    daemon.stop()
    damaged(daemon.state / "state.db")
    refused = daemon.cli("backup", str(tmp_path / "backup.db"))
    assert refused.returncode == 1
    assert "damaged" in refused.stderr or "malformed" in refused.stderr
    assert not [entry for entry in tmp_path.iterdir() if "backup.db" in entry.name]


def test_a_restored_database_starts_nothing_again(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon(TICK)
    first.wait_for_run("completed")
    view = backed_up(first, tmp_path / "backup.db")
    later = first.wait_for_row("SELECT id FROM runs WHERE id > ? + 1 AND status = 'completed'", view["highest_run"])
    over = first.cli("restore", str(tmp_path / "backup.db"))
    assert over.returncode == 1
    assert f"pid {first.process.pid}" in over.stderr
    first.stop()
    first.wait_for_supervisors()
    [(highest,)] = rows(first.state / "state.db", "SELECT max(id) FROM runs")
    restored = first.cli("restore", "--json", str(tmp_path / "backup.db"))
    assert restored.returncode == 0, restored.stderr
    document = json.loads(restored.stdout)
    assert document["numbers_from"] > highest
    assert later["id"] in document["unknown_runs"]
    assert rows(Path(document["replaced"]), "SELECT max(id) FROM runs") == [(highest,)]
    again = json.loads(first.cli("restore", "--json", str(tmp_path / "backup.db")).stdout)
    assert again["replaced"] != document["replaced"]
    document = {**again, "replaced": document["replaced"]}
    second = start_daemon(TICK)
    fresh = second.wait_for_row("SELECT * FROM runs WHERE id > ? AND status = 'completed'", highest)
    assert fresh["id"] >= document["numbers_from"]
    unknown = second.query("SELECT outcome, reason FROM fires WHERE reason LIKE 'unknown whether%'")
    assert unknown
    assert {row["outcome"] for row in unknown} == {"skipped_missed"}
    begun = f"SELECT scheduled_for FROM runs WHERE id > {view['highest_run']}"
    forgotten = set(rows(Path(document["replaced"]), begun))
    assert forgotten
    assert not forgotten & set(rows(second.state / "state.db", begun))


def test_a_restore_sends_nothing_old_and_shows_its_progress_on_a_terminal(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon(TICK + "[notify.ops]\nurl = 'http://127.0.0.1:1'\n")
    daemon.wait_for_run("completed")
    backed_up(daemon, tmp_path / "backup.db")
    daemon.stop()
    daemon.wait_for_supervisors()
    with contextlib.closing(sqlite3.connect(tmp_path / "backup.db", isolation_level=None)) as connection:
        connection.execute(
            "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM n WHERE i < 3) "
            "INSERT INTO notifications (target, event, created_at, next_try_at) SELECT 'ops', '{}', ?1, ?1 FROM n",
            ("2026-01-01T00:00:00.000Z",),
        )
        connection.execute("INSERT INTO run_notifications VALUES (1, 'ops', 'completed', 'pending', NULL, 'x', 3)")
    restored = json.loads(daemon.cli("restore", "--json", str(tmp_path / "backup.db")).stdout)
    assert restored["dropped_notifications"] == 3
    [told] = rows(daemon.state / "state.db", "SELECT state, reason FROM run_notifications")
    assert tuple(told) == ("dropped", "the database was restored from a backup")
    assert not rows(daemon.state / "state.db", "SELECT 1 FROM notifications WHERE event = '{}'")
    status, shown = on_a_terminal(daemon, "restore", str(tmp_path / "backup.db"))
    assert status == 0
    steps = ("Copying the backup", "Verifying every page", "Ending what is unknown", "Replacing the database")
    found = [shown.index(step) for step in steps]
    assert found == sorted(found)
    assert "Dropped 3 notifications that had not been sent when the backup was made" in shown


def on_a_terminal(daemon: DaemonProcess, *arguments: str) -> tuple[int, str]:
    """Run a command of agentcron on a terminal; return its exit status and what it shows there."""
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), *arguments]
    environment = {**daemon.environment, "TERM": "xterm", "COLUMNS": "200"}
    with subprocess.Popen(command, env=environment, stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # EIO, when the last one has closed the terminal
            while part := os.read(ours, 65536):
                shown += part
    os.close(ours)
    return process.returncode, shown.decode()


def test_a_run_that_the_backup_knows_as_running_is_finished_from_its_record(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    os.mkfifo(tmp_path / "gate")
    text = TICK.replace("['true']", f"['sh', '-c', 'read line <{tmp_path}/gate; exit 5']")
    first = start_daemon(text)
    first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    backed_up(first, tmp_path / "backup.db")
    first.kill()
    (tmp_path / "gate").write_text("go\n")
    restored = first.cli("restore", str(tmp_path / "backup.db"))
    assert restored.returncode == 0, restored.stderr
    run = start_daemon(text).wait_for_row("SELECT * FROM runs WHERE id = 1 AND completed_at IS NOT NULL")
    assert (run["status"], run["exit_code"]) == ("failed", 5)


@pytest.mark.parametrize("content", [b"", None])
def test_a_file_that_is_not_an_agentcron_database_is_reported(start_daemon: StartDaemon, content: bytes | None) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    daemon.stop()
    (daemon.state / "state.db").unlink()
    if content is None:
        with contextlib.closing(sqlite3.connect(daemon.state / "state.db")) as connection:
            connection.execute("CREATE TABLE guests (name)")
    else:
        (daemon.state / "state.db").write_bytes(content)
    told = daemon.cli("status")
    assert told.returncode == 1
    assert "is not a database of agentcron, or was emptied" in told.stderr


def test_nothing_is_finished_from_the_record_of_another_run_with_its_number(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    """On a new host the daemon may have run some runs of its own before somebody restores the backup."""
    first = start_daemon(TICK.replace("['true']", "['sleep', '300']"))
    first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    backed_up(first, tmp_path / "backup.db")
    first.stop(signal.SIGINT)
    shutil.rmtree(first.state)
    second = start_daemon(TICK.replace("['true']", "['sh', '-c', 'echo other; exit 7']"))
    second.wait_for_run("failed", number=1)
    second.stop()
    second.wait_for_supervisors()
    shutil.copy(tmp_path / "backup.db", tmp_path / "leaner.db")
    with contextlib.closing(sqlite3.connect(tmp_path / "leaner.db")) as connection:
        connection.execute(SPOILT["leaner"])
    assert second.cli("restore", str(tmp_path / "leaner.db")).returncode == 1
    assert (second.state / "runs/1/output.log").exists()
    restored = json.loads(second.cli("restore", "--json", str(tmp_path / "backup.db")).stdout)
    assert (Path(restored["replaced_folders"]) / "1/output.log").read_text() == "other\n"
    third = start_daemon(TICK.replace("1s", "36500d"))
    run = third.wait_for_row("SELECT * FROM runs WHERE id = 1 AND completed_at IS NOT NULL")
    assert (run["status"], run["exit_code"]) == ("interrupted", None)
    assert "other" not in third.cli("runs", "logs", "1").stdout


def test_a_restore_that_fails_midway_says_how_to_continue(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    backed_up(daemon, tmp_path / "backup.db")
    daemon.stop()
    daemon.wait_for_supervisors()
    (daemon.state / "witness.new").mkdir()
    told = daemon.cli("restore", str(tmp_path / "backup.db"))
    assert told.returncode == 1
    assert "witness.new; the previous database is" in told.stderr
    assert "fix this and restore again" in told.stderr
    assert start_daemon(TICK, ready=False).process.wait(20) == 1
    (daemon.state / "witness.new").rmdir()
    assert daemon.cli("restore", str(tmp_path / "backup.db")).returncode == 0


def test_the_daemon_of_a_copy_leaves_the_agents_of_the_original_alone(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    text = TICK.replace("['true']", "['sleep', '300']").replace("1s", "36500d")
    first = start_daemon(text)
    assert first.cli("schedules", "trigger", "a/s").returncode == 0
    run = first.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    backed_up(first, tmp_path / "backup.db")
    (tmp_path / "copy").mkdir()
    with daemons_in(tmp_path / "copy") as start:
        copy = start(text)
        copy.stop()
        assert copy.cli("restore", str(tmp_path / "backup.db")).returncode == 0
        copy = start(text)
        ended = copy.wait_for_row("SELECT * FROM runs WHERE id = 1 AND completed_at IS NOT NULL")
        assert ended["error"] == f"this run belongs to another daemon and continues in {first.state}/runs/1"
        assert copy.stop(signal.SIGINT) == 0
        assert first.query("SELECT status FROM runs")[0]["status"] == "running"
        assert [(one.run, one.process.pid) for one in living_supervisors(first.state)] == [(1, run["pid"])]


def test_what_the_backup_has_not_seen_begin_is_not_started_again(start_daemon: StartDaemon, tmp_path: Path) -> None:
    """Neither a waiting run, nor one that was being prepared, nor a further attempt; also without their folders."""
    started = tmp_path / "started"
    text = (
        "[daemon]\nstate_dir = 'state'\nmax_concurrent_runs = 1\n[agents.a]\nmax_concurrent = 9\nattempts = 3\n"
        f"retry_delay = '0s'\ncommand = ['sh', '-c', 'echo $AGENTCRON_RUN_ID >>{started}; read l <gate; exit 1']\n"
        f"environment = 'here'\n[environments.here]\nmode = 'local'\npath = '{tmp_path}'\n"
        "[agents.a.schedules.s]\nevery = '1s'\noverlap = 'allow_all'\n"
    )
    os.mkfifo(tmp_path / "gate")
    first = start_daemon(text)
    first.wait_for_row("SELECT 1 FROM runs WHERE status = 'pending'")
    first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    view = backed_up(first, tmp_path / "backup.db")
    first.kill()
    (tmp_path / "gate").write_text("go\n")
    first.wait_for_supervisors()
    before = started.read_text().split()
    shutil.rmtree(first.state / "runs")
    assert first.cli("restore", str(tmp_path / "backup.db")).returncode == 0
    quiet = text.replace("[agents.a.schedules.s]", "[agents.b]\ncommand = ['true']\n[agents.b.schedules.s]")
    second = start_daemon(quiet)
    second.wait_for_row("SELECT 1 FROM runs WHERE agent = 'b' AND status = 'completed'")
    assert started.read_text().split() == before
    ended = second.query("SELECT DISTINCT status FROM runs WHERE id <= ?", view["highest_run"])
    assert [row["status"] for row in ended] == ["interrupted"]


def test_no_backup_is_restored_beside_agents_that_it_does_not_know(start_daemon: StartDaemon, tmp_path: Path) -> None:
    empty = "[agents.a]\ncommand = ['sleep', '300']\n"
    first = start_daemon(empty)
    backed_up(first, tmp_path / "backup.db")
    first.stop()
    second = start_daemon(empty + "[agents.a.schedules.s]\nevery = '1s'\n")
    run = second.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    second.kill()
    refused = second.cli("restore", str(tmp_path / "backup.db"))
    assert refused.returncode == 1
    assert f"kill {run['pid']}" in refused.stderr
    os.kill(run["pid"], signal.SIGTERM)
    second.wait_for_supervisors()
    assert second.cli("restore", str(tmp_path / "backup.db")).returncode == 0


def test_no_backup_is_restored_beside_an_agent_that_it_knows_only_as_waiting_or_by_another_process(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    daemon = start_daemon("[agents.a]\ncommand = ['sleep', '300']\n[agents.a.schedules.s]\nevery = '1s'\n")
    run = daemon.wait_for_row("SELECT * FROM runs WHERE delivered_at IS NOT NULL")
    backup = tmp_path / "backup.db"
    backed_up(daemon, backup)
    daemon.kill()
    for change in ("status = 'pending'", "pid_started = pid_started + 1", "boot_id = 'other'", "pid = NULL"):
        shutil.copy(backup, tmp_path / "changed.db")
        with contextlib.closing(sqlite3.connect(tmp_path / "changed.db", isolation_level=None)) as connection:
            connection.execute(f"UPDATE runs SET {change}")
        refused = daemon.cli("restore", str(tmp_path / "changed.db"))
        assert (refused.returncode, f"kill {run['pid']}" in refused.stderr) == (1, True), (change, refused.stderr)
    assert daemon.cli("restore", str(backup)).returncode == 0
    os.kill(run["pid"], signal.SIGTERM)
    daemon.wait_for_supervisors()


def test_a_run_cancelled_after_the_backup_says_who_cancelled_it(start_daemon: StartDaemon, tmp_path: Path) -> None:
    text = "[agents.a]\ncommand = ['sleep', '300']\n[agents.a.schedules.s]\nevery = '36500d'\n"
    first = start_daemon(text)
    first.cli("schedules", "trigger", "a/s")
    first.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    backed_up(first, tmp_path / "backup.db")
    first.cli("runs", "cancel", "1")
    before = first.wait_for_row("SELECT status, error FROM runs WHERE completed_at IS NOT NULL")
    first.kill()
    restored = first.cli("restore", str(tmp_path / "backup.db"))
    assert restored.returncode == 0, restored.stderr
    after = start_daemon(text).wait_for_row("SELECT status, error FROM runs WHERE completed_at IS NOT NULL")
    assert after == before
    assert (after["status"], "cancelled by" in after["error"]) == ("cancelled", True)


def test_backups_to_one_file_at_once_leave_a_good_one(start_daemon: StartDaemon, tmp_path: Path) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    target = tmp_path / "backup.db"
    with ThreadPoolExecutor(4) as pool:
        statuses = list(pool.map(lambda _: daemon.cli("backup", str(target)).returncode, range(4)))
    assert statuses == [0] * 4
    assert rows(target, "PRAGMA integrity_check") == [("ok",)]
    assert not list(tmp_path.glob(".*partial*"))


def test_a_lost_state_directory_comes_back_with_its_hooks(start_daemon: StartDaemon, tmp_path: Path) -> None:
    first = start_daemon(TICK)
    first.wait_for_run("completed")
    backed_up(first, tmp_path / "backup.db")
    key = (first.state / "hook.key").read_bytes()
    first.stop(signal.SIGKILL)
    first.wait_for_supervisors()
    shutil.rmtree(first.state)
    assert first.cli("restore", str(tmp_path / "backup.db")).returncode == 0
    assert (first.state / "hook.key").read_bytes() == key
    assert not rows(first.state / "state.db", "SELECT 1 FROM sqlite_schema WHERE name = 'backup'")
    start_daemon(TICK).wait_for_row("SELECT 1 FROM runs WHERE id > 1000 AND status = 'completed'")


@pytest.mark.parametrize("what", ["damaged", "text", "newer", "foreign", "missing", "older", "leaner", "triggered"])
def test_an_invalid_backup_changes_nothing(start_daemon: StartDaemon, tmp_path: Path, what: str) -> None:
    daemon = start_daemon(TICK)
    daemon.wait_for_run("completed")
    file = tmp_path / "backup.db"
    backed_up(daemon, file)
    daemon.stop()
    if what == "damaged":
        damaged(file)
    elif what == "text":
        file.write_text("nothing of the kind" * 500)
    elif what in {"missing", "foreign"}:
        file.unlink()
    if what in SPOILT:
        with contextlib.closing(sqlite3.connect(file)) as connection:
            connection.execute(SPOILT[what])
    kept = {entry.name: entry.read_bytes() for entry in daemon.state.iterdir() if entry.is_file()}
    refused = daemon.cli("restore", str(file))
    assert refused.returncode == 1
    assert str(file) in refused.stderr or "the backup" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert {entry.name for entry in daemon.state.iterdir() if entry.is_file()} == set(kept)
    assert all((daemon.state / name).read_bytes() == data for name, data in kept.items() if name != "daemon.lock")
