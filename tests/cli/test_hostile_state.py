"""Commands on a state and a socket whose content is not agentcron's: messages, never tracebacks or escapes."""

import ast
import contextlib
import json
import os
import re
import shutil
import sqlite3
import zlib
from pathlib import Path

import pytest

from tests.support import forked
from tests.support.api import call
from tests.support.configs import one_agent
from tests.support.daemon_process import DaemonProcess, StartDaemon
from tests.support.impostors import impostor

CONFIG = one_agent("true", schedule={"every": "1s"})
HOSTILE = "\x1b]0;owned\x07\x9b31m\r\n\u202e"
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]")
COMMANDS = [
    ("runs", "list"),
    ("runs", "show", "1"),
    ("status",),
    ("schedules", "list"),
    ("check", "--diff"),
    ("doctor",),
    ("runs", "cancel", "1"),
    ("run",),
]


@pytest.fixture
def used(start_daemon: StartDaemon) -> DaemonProcess:
    """Return a daemon that had a run and has ended."""
    daemon = start_daemon(CONFIG)
    daemon.wait_for_run("completed")
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db")) as connection:
        connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    return daemon


def test_a_damaged_schema_that_is_not_utf_8_is_reported(used: DaemonProcess, tmp_path: Path) -> None:
    database = used.state / "state.db"
    damaged = database.read_bytes().replace(b"tablerunsruns", b"tableru\xffsruns")
    database.write_bytes(damaged.replace(b"CREATE TABLE runs", b"CREATX TABLE runs"))
    shutil.copy(database, tmp_path / "copy.db")
    for command in (*COMMANDS, ("backup", str(tmp_path / "b.db")), ("restore", str(tmp_path / "copy.db"))):
        done = used.cli(*command)
        assert "Traceback" not in done.stdout + done.stderr, done.stderr
        assert (done.returncode, "malformed database schema" in done.stdout + done.stderr) == (1, True), done
    database.unlink()  # the fixture could not read it


ENDLESS = "WITH RECURSIVE r(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM r) SELECT {} FROM r WHERE i < 0"


@pytest.mark.parametrize("table", ["runs", "instance"])
def test_a_view_in_the_place_of_a_table_is_refused(used: DaemonProcess, tmp_path: Path, table: str) -> None:
    with contextlib.closing(sqlite3.connect(used.state / "state.db")) as connection:
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        connection.execute("PRAGMA writable_schema = ON")
        view = f"CREATE VIEW {table} AS {ENDLESS.format(', '.join(f'i AS {column}' for column in columns))}"
        connection.execute(
            "UPDATE sqlite_schema SET type = 'view', rootpage = 0, sql = ? WHERE name = ?", (view, table)
        )
        connection.execute("DELETE FROM sqlite_schema WHERE tbl_name = ? AND type = 'index'", (table,))
        connection.commit()
    shutil.copy(used.state / "state.db", tmp_path / "copy.db")
    reading = [command for command in COMMANDS if command != ("run",)]
    for command in (*reading, ("backup", str(tmp_path / "b.db")), ("restore", str(tmp_path / "copy.db"))):
        done = used.cli(*command)
        assert (done.returncode, f"its view {table} is foreign" in done.stdout + done.stderr) == (1, True), done
    assert not list(tmp_path.glob("*b.db*"))
    (used.state / "state.db").unlink()  # the fixture could not read it


@pytest.mark.parametrize("column", ["status", "trigger", "created_at", "usage"])
def test_a_value_that_agentcron_did_not_write_is_reported(used: DaemonProcess, column: str) -> None:
    with contextlib.closing(sqlite3.connect(used.state / "state.db")) as connection:
        columns = {row[1] for row in connection.execute("PRAGMA table_info(runs)")}
        connection.execute("PRAGMA ignore_check_constraints = ON")
        name = column if column in columns else "settings"
        connection.execute(f"UPDATE runs SET {name} = 'no such'")
        connection.commit()
    for command in (("runs", "list"), ("runs", "show", "1"), ("status",)):
        done = used.cli(*command)
        assert "Traceback" not in done.stderr, done.stderr


UNREADABLE = {
    ("runs", "cancel", "1"): ("run 1", "UPDATE runs SET trigger = 'no such', status = 'running', completed_at = NULL"),
    ("runs", "show", "1"): ("the time '99999999-01-01'", "UPDATE runs SET started_at = '99999999-01-01'"),
    ("schedules", "history", "a/s"): ("revision 1 of schedule 1", "UPDATE schedule_revisions SET changes = '[[[1]]]'"),
    ("schedules", "list"): ("schedule a/s", "UPDATE schedules SET next_due = 'x'"),
}


def test_a_row_that_cannot_be_read_is_named_and_doctor_goes_on(used: DaemonProcess) -> None:
    intact = (used.state / "state.db").read_bytes()
    for command, (what, change) in UNREADABLE.items():
        (used.state / "state.db").write_bytes(intact)
        with contextlib.closing(sqlite3.connect(used.state / "state.db", isolation_level=None)) as connection:
            connection.execute("PRAGMA ignore_check_constraints = ON")
            connection.execute(change)
        done = used.cli(*command)
        told = f"agentcron: {what} in the database is damaged ("
        assert (done.returncode, done.stderr.startswith(told), done.stderr.count("\n")) == (1, True, 1), done
        found = json.loads(used.cli("doctor", "--json").stdout)["findings"]
        assert found[-1]["about"] == "daemon", found  # the last check
        named = [one["what"] for one in found if one["about"] == "database" and one["severity"] == "error"]
        assert named or command[1] == "history", found


def test_times_in_a_zone_that_the_host_does_not_know_are_shown_in_utc(used: DaemonProcess, tmp_path: Path) -> None:
    with contextlib.closing(sqlite3.connect(used.state / "state.db", isolation_level=None)) as connection:
        connection.execute("UPDATE schedules SET cron = '* * * * *', every_ms = NULL, timezone = 'Mars/Phobos'")
        connection.execute("UPDATE schedules SET source = 'created', name = 'mars'")
    note = "note: this host does not know the timezone 'Mars/Phobos'; its times are shown in UTC\n"
    for command in (("runs", "list"), ("runs", "show", "1"), ("schedules", "list"), ("schedules", "show", "a/mars")):
        done = used.cli(*command)
        assert (done.returncode, done.stderr, " UTC" in done.stdout) == (0, note, True), done
    [listed] = json.loads(used.cli("schedules", "list", "--json").stdout)["run_schedules"]
    assert (listed["state"], listed["next_action_times"]) == ("no_cadence", None)
    assert listed["state_reason"].endswith("may lack Mars/Phobos")
    assert listed["state_reason"] in used.cli("schedules", "show", "a/mars").stdout
    done = used.cli("schedules", "next", "a/mars")
    assert done.stderr.startswith("agentcron: schedule a/mars in the database is damaged ("), done
    found = json.loads(used.cli("doctor", "--json").stdout)["findings"]
    named = [one["what"] for one in found if one["about"] == "zones" and one["severity"] == "error"]
    assert named == [f"a/mars starts nothing: {listed['state_reason']}"]
    assert used.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    done = used.cli("restore", str(tmp_path / "backup.db"))
    assert f"{named[0]}; update the tzdata package" in done.stdout, done


def test_the_api_answers_a_row_that_cannot_be_read_with_a_plain_error(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG)
    daemon.wait_for_run("completed", number=2)
    with contextlib.closing(sqlite3.connect(daemon.state / "state.db", timeout=20, isolation_level=None)) as connection:
        connection.execute("PRAGMA ignore_check_constraints = ON")
        connection.execute("UPDATE runs SET trigger = 'no such' WHERE id = 1")
    answer = call(daemon, "GET", "/runs/1")
    assert (answer.status, answer.body["code"]) == (500, "damaged")
    assert answer.body["message"].startswith("run 1 in the database is damaged (")
    assert call(daemon, "GET", "/runs/2").status == 200


@pytest.mark.parametrize(
    "record",
    ["[1]", "7", "[" * 480 + "]" * 480, "[" * 1000, '{"version": 1}'],
    ids=["list", "number", "deep", "cut", "empty"],
)
def test_no_record_of_a_run_stops_a_restore(used: DaemonProcess, tmp_path: Path, record: str) -> None:
    assert used.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    line = f"{zlib.crc32(record.encode()):08x} {record}\n".encode()
    for folder in (used.state / "runs").iterdir():
        with (folder / "status").open("r+b") as stream:
            stream.write(line)
    done = used.cli("restore", str(tmp_path / "backup.db"))
    assert done.returncode == 0, done.stderr


def test_no_name_of_a_folder_stops_a_restore_or_doctor(used: DaemonProcess, tmp_path: Path) -> None:
    assert used.cli("backup", str(tmp_path / "backup.db")).returncode == 0
    for name in ("9" * 200, "9" * 19, str(2**63), "0" * 30 + "1", "\N{SUPERSCRIPT TWO}", "00"):
        (used.state / "runs" / name).mkdir()
        (used.state / "environments" / "x" / "tasks" / name).mkdir(parents=True)
    done = used.cli("doctor")
    assert "Traceback" not in done.stderr, done.stderr
    done = used.cli("restore", "--json", str(tmp_path / "backup.db"))
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["numbers_from"] < 10_000


@pytest.mark.parametrize(
    "content",
    [
        "[" * 4000,
        '{"instance": "x", "highest_run": 9e99, "commits": 1}',
        '{"instance": "x", "highest_run": -1, "commits": 1}',
    ],
    ids=["deep", "huge", "negative"],
)
def test_a_witness_that_agentcron_did_not_write_is_reported(used: DaemonProcess, content: str) -> None:
    (used.state / "witness.json").write_text(content)
    for command in (("run",), ("doctor",)):
        done = used.cli(*command)
        assert "Traceback" not in done.stdout + done.stderr
        assert (done.returncode, "witness.json cannot be read" in done.stdout + done.stderr) == (1, True), done


DOCUMENT = {
    **dict.fromkeys(("id", "status", "attempt", "version", "path", "reason", "run_id", "message", "code"), HOSTILE),
    "changes": [{"schedule": HOSTILE, "action": HOSTILE}],
    "warnings": [HOSTILE],
    "removed": [1],
    "failed": [{"run_id": HOSTILE, "reason": HOSTILE}],
    "backfilled": HOSTILE,
    "already_run": HOSTILE,
    "skipped_overlap": HOSTILE,
    "upcoming": HOSTILE,
    "data": {"fields": [{"field": HOSTILE, "problem": HOSTILE}]},
    "timezone": HOSTILE,
    "next_action_times": [HOSTILE],
}


def _cli(folder: Path, *command: str) -> tuple[int, str]:
    (folder / "config.toml").write_text(f'{CONFIG}\n[control]\nsocket = "{folder}/c.sock"\n')
    done = forked.run(["--config", str(folder / "config.toml"), *command], dict(os.environ), folder)
    return done.returncode, done.stdout + done.stderr


REQUESTS = [
    ("reload",),
    ("runs", "retry", "1"),
    ("runs", "cancel", "1"),
    ("schedules", "trigger", "a/s"),
    ("schedules", "pause", "a/s"),
    ("schedules", "resume", "a/s"),
    ("schedules", "backfill", "a/s", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-02T00:00:00Z"),
    ("workspaces", "clean"),
    ("workspaces", "keep", "1"),
    ("workspaces", "unkeep", "1"),
]


@pytest.mark.parametrize("status", [200, 400, 409])
@pytest.mark.parametrize("command", REQUESTS, ids=" ".join)
def test_no_answer_controls_the_terminal(tmp_path: Path, command: tuple[str, ...], status: int) -> None:
    with impostor(tmp_path / "c.sock", json.dumps(DOCUMENT).encode(), status):
        _, said = _cli(tmp_path, *command)
    assert said
    assert not CONTROL.search(said), repr(said)


@pytest.mark.parametrize(
    "body", [b"[]", b"\xff", b"[" * 100_000, b'{"a": ', b"7"], ids=["list", "bytes", "deep", "cut", "number"]
)
def test_an_answer_that_is_no_object_is_reported(tmp_path: Path, body: bytes) -> None:
    with impostor(tmp_path / "c.sock", body):
        code, said = _cli(tmp_path, "runs", "retry", "1")
    assert (code, "that is not a JSON object; find out with `ss -xlp`" in said) == (3, True), said


def test_only_the_functions_that_escape_print_what_is_not_constant() -> None:
    """Everything else that is printed is a constant, so that no command can forget to escape what it was told."""
    folder = Path(forked.__file__).parents[2] / "daemon" / "cli"
    found = []
    for file in folder.glob("*.py"):
        for node in ast.walk(ast.parse(file.read_text())):
            is_print = isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "print"
            if is_print and file.name not in {"output.py", "main.py"}:
                assert isinstance(node, ast.Call)
                found += [f"{file.name}:{node.lineno}" for one in node.args if not isinstance(one, ast.Constant)]
    assert found == []
