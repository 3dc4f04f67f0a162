"""The command line: what it shows with and without a daemon, and how it reports mistakes."""

import contextlib
import json
import os
import pty
import re
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from daemon.cli import starter_config as starter
from daemon.cli.app import app
from daemon.config.loading import load_config
from daemon.model import RunStatus
from tests.support import forked
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.waiting import wait_until

CONFIG = """\
[agents.a]
command = ["sh", "-c", "echo hello; echo $AGENTCRON_RUN_ID"]
[agents.a.schedules.s]
every = "1s"
description = "says hello"
[agents.a.schedules.nightly]
cron = "30 2 * * *"
timezone = "Europe/London"
"""


def _run_once(start: StartDaemon) -> DaemonProcess:
    daemon = start(CONFIG)
    daemon.wait_for_run("completed")
    daemon.stop()
    return daemon


@pytest.fixture
def stopped(start_daemon: StartDaemon) -> DaemonProcess:
    """A state directory with one completed run and no daemon."""
    return _run_once(start_daemon)


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """The same for tests that change nothing in it, so that they can share it."""
    with daemons_in(tmp_path_factory.mktemp("unchanged")) as start:
        yield _run_once(start)


def agentcron(folder: Path, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return forked.run(list(arguments), {**os.environ, **environment}, folder)


def document(daemon: DaemonProcess, *arguments: str, status: int = 0) -> Any:  # noqa: ANN401 - any JSON
    found = daemon.cli(*arguments, "--json")
    assert found.returncode == status, found.stderr
    return json.loads(found.stdout)


def test_bodies_have_their_documented_shape(unchanged: DaemonProcess) -> None:
    runs = document(unchanged, "runs", "list")
    assert runs["total"] == len(runs["runs"]) >= 1
    assert runs["runs"][-1]["id"] == 1
    assert runs["runs"][-1]["status"] == "completed"
    schedules = document(unchanged, "schedules", "list")
    assert [entry["name"] for entry in schedules["run_schedules"]] == ["nightly", "s"]
    assert schedules["total"] == 2
    shown = document(unchanged, "schedules", "show", "a/s")
    assert shown == {**shown, "interval_seconds": 1, "cron_expression": None, "state": "active", "version": 1}
    assert shown["initial_input"] == {"type": "text", "author": "user", "content": ""}
    assert shown["initial_input_method"] == "stdin"
    assert shown["num_actions_taken"] >= 1
    history = document(unchanged, "schedules", "history", "a/s")
    assert history["fires"][-1]["outcome"] == "launched"
    assert history["revisions"][0]["action"] == "create"
    assert document(unchanged, "runs", "show", "1")["steps"][0]["name"] == "workspace"
    assert document(unchanged, "runs", "logs", "1")["output"] == "hello\n1\n"
    checked = document(unchanged, "check")
    assert checked["warnings"] == []
    assert [(entry["schedule"], entry["timezone"]) for entry in checked["schedules"]] == [
        ("a/s", "UTC"),
        ("a/nightly", "Europe/London"),
    ]
    status = document(unchanged, "status", status=3)
    assert status["daemon"]["running"] is False
    assert status["next"]


def test_next_needs_neither_daemon_nor_database(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(CONFIG)
    ask = ("schedules", "next", "a/nightly", "-n", "3", "--from", "2026-03-28T00:00:00Z")
    found = agentcron(tmp_path, "--config", "config.toml", *ask, "--json")
    assert json.loads(found.stdout) == {
        "next_action_times": ["2026-03-28T02:30:00.000Z", "2026-03-29T01:30:00.000Z", "2026-03-30T01:30:00.000Z"]
    }
    for_people = agentcron(tmp_path, "--config", "config.toml", *ask).stdout.splitlines()
    assert for_people[2].split("  ") == ["2026-03-29 02:30:00 BST", "2026-03-29T01:30:00.000Z"]
    assert not (tmp_path / "state").exists()


def test_what_people_see_lines_up_and_holds_no_escapes(unchanged: DaemonProcess) -> None:
    shown = unchanged.cli("runs", "list").stdout
    head, *lines = shown.splitlines()
    column = head.index("STATUS")
    assert lines[-1][column:].startswith("completed")  # the first; another may have begun
    assert {line[column:].split()[0] for line in lines} <= set(RunStatus)
    assert "\x1b" not in shown
    facts = unchanged.cli("schedules", "show", "a/s").stdout
    assert "description  says hello" in facts
    assert unchanged.cli("runs", "logs", "1").stdout == "hello\n1\n"
    assert "no daemon runs" in unchanged.cli("status").stderr


def test_a_terminal_gets_colours_but_no_escapes_of_agents(start_daemon: StartDaemon) -> None:
    text = CONFIG.replace("echo hello;", r"printf '\\033[32mgreen\\033[0m\\033]0;title\\007\\302\\23331m\\177\\n';")
    daemon = start_daemon(text)
    daemon.wait_for_run("completed")
    assert b"\x1b[" in _on_terminal(daemon, "runs", "list")
    shown = _on_terminal(daemon, "runs", "logs", "1")
    assert b"\x1b[32mgreen\x1b[0m" in shown
    assert rb"\x1b]0;title\x07" in shown
    document = _on_terminal(daemon, "runs", "logs", "1", "--json")
    assert document.isascii()
    assert b"\x7f" not in document
    assert "\x9b31m\x7f" in json.loads(document)["output"]


def test_what_comes_in_parts_is_shown_as_a_whole() -> None:
    parts = [b"a\r", b"\nb\x1b[3", b"1mred\x1b", b"[0m\r", b"c\xc3", b"\xa9\x1b["]
    script = f"from daemon.cli.run_output import show; show({parts!r})"
    expected = b"a\r\r\nb\x1b[31mred\x1b[0m\r\nc\xc3\xa9" + rb"\x1b[" + b"\x1b[0m\r\n"  # a terminal makes \r\n of \n
    assert _shown([sys.executable, "-c", script]) == expected


def test_a_table_loses_nothing_on_a_narrow_terminal() -> None:
    columns, row = ("run", "schedule", "error"), ("7", "triage/nightly", "exit status 1 after the budget was spent")
    script = f"from daemon.cli.output import print_table; print_table({columns!r}, [{row!r}], empty='')"
    for width in (50, 30):  # room to fold the last column, and none
        shown = re.sub(rb"\x1b\[[0-9;]*m", b"", _shown([sys.executable, "-c", script], width)).decode()
        assert " ".join(shown.split()) == " ".join((*(column.upper() for column in columns), *row))
        assert (max(map(len, shown.splitlines())) <= width) is (width == 50)


def _on_terminal(daemon: DaemonProcess, *arguments: str) -> bytes:
    return _shown([sys.executable, "-m", "daemon", "--config", str(daemon.config), *arguments])


def _shown(command: list[str], columns: int = 200) -> bytes:
    """Return what a command writes to a terminal."""
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm-256color", "COLUMNS": str(columns)}
    environment.pop("NO_COLOR", None)
    process = subprocess.Popen(command, stdout=theirs, stdin=theirs, env=environment)
    os.close(theirs)
    shown = b""
    while True:
        try:
            part = os.read(ours, 65536)
        except OSError:  # the other end is closed
            break
        shown += part
    process.wait()
    os.close(ours)
    return shown


def test_following_ends_with_the_run(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    script = f"echo first; cat {tmp_path}/gate; echo last"
    daemon = start_daemon(f"[agents.a]\ncommand = ['sh', '-c', '{script}']\n[agents.a.schedules.s]\nevery = '1s'\n")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "runs", "logs", "1", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "first\n"
        (tmp_path / "gate").write_text("middle\n")
        assert follower.stdout.read() == "middle\nlast\n"
        assert follower.wait(20) == 0


def test_following_ends_if_nobody_remains_to_record_the_end(start_daemon: StartDaemon) -> None:
    daemon = start_daemon("[agents.a]\ncommand = ['sleep', '1000']\n[agents.a.schedules.s]\nevery = '1s'\n")
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "runs", "logs", "1", "-f"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as follower:
        daemon.stop()
        assert follower.poll() is None
        [run] = daemon.query("SELECT pid FROM runs WHERE id = 1")
        os.kill(run["pid"], signal.SIGTERM)
        assert follower.wait(20) == 3
        assert follower.stderr is not None
        assert (
            follower.stderr.read()
            == "agentcron: no daemon runs, so the end of run 1 is not recorded; start the daemon\n"
        )


MISTAKES = [
    (("create", "a/new"), "set --cron or --every"),
    (("create", "a/new", "--every", "0s"), "--every: should be greater than or equal to 1"),
    (("create", "a/new", "--cron", "9"), "--cron: '9'"),
    (("create", "a/new", "--every", "1h", "--cron", "@daily"), "both --cron and --every are set"),
    (("update", "a/nightly", "--overlap", "jump"), "--overlap: should be 'skip'"),
    (("update", "a/nightly", "--clear", "cron"), "'cron' is not one of description, start_at"),
    (("update", "a/nightly", "--clear", "start-at", "--start-at", "x"), "start-at cannot be set and cleared at once"),
]


def test_mistakes_are_reported_in_the_words_of_the_command_line(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG)
    for arguments, why in MISTAKES:
        told = daemon.cli("schedules", *arguments)
        assert (told.returncode, why in told.stderr) == (2, True), told.stderr
        assert "_seconds" not in told.stderr


def test_status_of_a_running_daemon(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG.replace("echo hello;", "sleep 100;"))
    daemon.wait_for_row("SELECT 1 FROM runs WHERE status = 'running'")
    status = document(daemon, "status")
    assert status["daemon"]["pid"] == daemon.process.pid
    assert [run["id"] for run in status["running"]] == [1]
    assert f"running, pid {daemon.process.pid}" in daemon.cli("status").stdout


def test_check_warns_about_what_is_probably_not_meant(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text(
        """\
[agents.a]
command = ["no-such-program"]
env = { KEY = { credential = "x" } }
[agents.a.schedules.s]
every = "1h"
overlap = "allow_all"
[agents.b]
type = "agentex"
url = "http://127.0.0.1:1"
"""
    )
    found = agentcron(tmp_path, "--config", "config.toml", "check", "--json")
    assert found.returncode == 0
    text = "\n".join(json.loads(found.stdout)["warnings"])
    assert "no executable program 'no-such-program' found" in text
    assert "env.KEY: credential 'x' is not available" in text
    assert 'overlap = "allow_all" has no effect' in text
    assert "overlap ignores the work after it" in text


def test_init_writes_a_good_config_once(tmp_path: Path) -> None:
    made = agentcron(tmp_path, "init", "there")
    assert made.returncode == 0, made.stderr
    assert agentcron(tmp_path, "--config", "there/config.toml", "check").returncode == 0
    again = agentcron(tmp_path, "init", "there")
    assert again.returncode == 1
    assert "already exists" in again.stderr


def test_the_first_config_of_a_service_is_calm_and_bounds_its_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(starter, "default_files", lambda: [tmp_path / "config.toml"])
    (tmp_path / "config.toml").write_text(starter.starter_config(tmp_path / "config.toml"))
    config = load_config(tmp_path / "config.toml")
    assert config.agents["hello"].schedules["greeting"].cron == "0 7 * * *"
    assert config.retention.days == 30
    (tmp_path / "config.toml").write_text(starter.starter_config(tmp_path / "other.toml"))
    config = load_config(tmp_path / "config.toml")
    assert config.agents["hello"].schedules["greeting"].every == timedelta(seconds=5)
    assert config.retention.days is None


@pytest.mark.parametrize(
    ("arguments", "status", "says"),
    [
        (("schedules", "show", "a/none"), 1, "no schedule a/none"),
        (("schedules", "show", "a"), 2, "write AGENT/NAME"),
        (("schedules", "next", "a/s", "--from", "tomorrow"), 2, "RFC 3339"),
        (("schedules", "next", "a/s", "-n", "0"), 2, "-n"),
        (("runs", "show", "99"), 1, "no run 99"),
        (("runs", "show", "x"), 2, "'x' is not a run number"),
        (("runs", "logs", "99"), 1, "no run 99"),
        (("runs", "show", "0"), 2, "'0' is not a run number"),
        (("runs", "show", "9223372036854775808"), 2, "'9223372036854775808' is not a run number"),
        (("schedules", "show", "a/\udcff"), 2, "write AGENT/NAME"),
        (("schedules", "next", "a/s", "--from", "9999-12-31T23:59:58Z"), 2, "1970 to 9000"),
        (("runs", "cancel", "99"), 1, "no run 99"),
        (("runs", "cancel", "1"), 1, "already ended (completed)"),
        (("runs", "list", "--status", "happy"), 2, "'happy' is not a status"),
        (("nonsense",), 2, "No such command"),
    ],
)
def test_mistakes_are_reported_without_a_traceback(
    unchanged: DaemonProcess, arguments: tuple[str, ...], status: int, says: str
) -> None:
    found = unchanged.cli(*arguments)
    assert found.returncode == status, found.stderr
    assert says in found.stderr
    assert "Traceback" not in found.stderr
    assert found.stdout == ""


def test_a_database_of_a_newer_version_is_left_alone(stopped: DaemonProcess) -> None:
    with contextlib.closing(sqlite3.connect(stopped.state / "state.db")) as connection:
        connection.execute("PRAGMA user_version = 9999")
    for arguments in (("runs", "cancel", "1"), ("runs", "cancel", "--all"), ("runs", "list")):
        told = stopped.cli(*arguments)
        assert told.returncode == 1
        assert "schema 9999" in told.stderr


@pytest.mark.parametrize("arguments", [("runs", "list"), ("schedules", "list"), ("status",), ("runs", "cancel", "1")])
def test_without_a_database_commands_say_what_to_do(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    (tmp_path / "config.toml").write_text('[daemon]\nstate_dir = "state"\n' + CONFIG)
    found = agentcron(tmp_path, "--config", "config.toml", *arguments)
    assert found.returncode == (3 if arguments == ("status",) else 1)
    assert "no database" in found.stderr or "no daemon" in found.stderr
    assert not (tmp_path / "state").exists()


def test_config_errors_are_reported_one_per_line(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[daemon]\nx = 1\ny = 2\n")
    for command in (("check",), ("run",), ("status",)):
        found = agentcron(tmp_path, "--config", "config.toml", *command)
        assert found.returncode == 2
        assert len(found.stderr.splitlines()) == 3
        assert "Traceback" not in found.stderr


def _damage_header(path: Path) -> None:
    path.write_bytes(b"not a database at all".ljust(8192, b"!"))


def _make_newer(path: Path) -> None:
    path.write_bytes(path.read_bytes())
    subprocess.run(["sqlite3", str(path), "PRAGMA user_version = 99"], check=True)


@pytest.mark.parametrize(("damage", "says"), [(_damage_header, "not a database"), (_make_newer, "schema 99")])
def test_an_unusable_database_is_reported(stopped: DaemonProcess, damage: Callable[[Path], None], says: str) -> None:
    damage(stopped.state / "state.db")
    for command in (("runs", "list"), ("run",)):
        found = stopped.cli(*command)
        assert found.returncode == 1
        assert says in found.stderr
        assert "Traceback" not in found.stderr


def test_an_odd_standard_output_or_directory_is_no_traceback(unchanged: DaemonProcess, tmp_path: Path) -> None:
    program = f"{sys.executable} -m daemon"
    listing = f"{program} --config {unchanged.config} runs show 1"
    gone = f"mkdir {tmp_path}/gone; cd {tmp_path}/gone; rmdir {tmp_path}/gone; PYTHONPATH={Path.cwd()} {program}"
    for script, status in (
        (f"{listing} >&-", 0),
        (f"PYTHONIOENCODING=ascii {listing}", 0),
        (f"{gone} --config config.toml check", 2),
        (f"{program} init /dev/null", 1),
    ):
        found = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=False)
        assert (found.returncode, "Traceback" in found.stderr) == (status, False), found.stderr
    assert "cannot write /dev/null/config.toml: Not a directory" in found.stderr


def test_a_closed_pipe_is_no_error(unchanged: DaemonProcess) -> None:
    command = f"{sys.executable} -m daemon --config {unchanged.config} schedules next a/s -n 10000 | head -1"
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert found.stderr == ""


def test_a_full_device_is_reported(unchanged: DaemonProcess) -> None:
    for words in ("check", "runs list", "runs logs 1"):
        command = f"{sys.executable} -m daemon --config {unchanged.config} {words} > /dev/full"
        found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=False)
        assert found.returncode == 1
        assert found.stderr == "agentcron: cannot write the output: no space left on device\n"


def test_what_is_typed_is_not_echoed_raw(tmp_path: Path) -> None:
    found = agentcron(tmp_path, "--config", "a\x1b[31m\nb", "check")
    assert found.returncode == 2
    assert len(found.stderr.splitlines()) == 1
    assert "\x1b" not in found.stderr


def test_the_history_of_a_retired_schedule_stays_readable(stopped: DaemonProcess, start_daemon: StartDaemon) -> None:
    start_daemon(stopped.config.read_text().replace("schedules.s]", "schedules.other]")).stop()
    assert document(stopped, "schedules", "show", "a/s")["state"] == "deleted"
    assert document(stopped, "schedules", "history", "a/s")["fires"]


def test_every_help_has_an_example() -> None:
    def walk(*words: str) -> list[str]:
        text = CliRunner().invoke(app, [*words, "--help"], prog_name="agentcron").output
        assert "Example: agentcron" in text, words
        listed = text.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
        names = [line.split()[0] for line in listed if line.startswith("  ") and not line.startswith("   ")]
        return [name for name in names if walk(*words, name) is not None]

    assert {"run", "check", "init", "status", "schedules", "runs", "retention"} <= set(walk())


@pytest.mark.parametrize(
    ("words", "usage", "argument"),
    [
        ("runs show", "runs show [OPTIONS] RUN", "RUN  The number of the run.  [required]"),
        ("runs cancel", "runs cancel [OPTIONS] [RUN]", "RUN  The number of the run."),
        ("init", "init [OPTIONS] [DIR]", "DIR  Write config.toml to this directory.  [default: .]"),
    ],
)
def test_help_shows_placeholders_without_types_and_ranges(words: str, usage: str, argument: str) -> None:
    text = CliRunner().invoke(app, [*words.split(), "--help"], prog_name="agentcron").output
    assert text.splitlines()[0] == f"Usage: agentcron {usage}"
    assert text.partition("Arguments:\n")[2].partition("\n\n")[0].strip() == argument


def test_interrupting_the_follower_is_quiet(start_daemon: StartDaemon) -> None:
    daemon = start_daemon(CONFIG.replace("echo hello;", "echo hello; sleep 100;"))
    daemon.wait_for_row("SELECT 1 FROM runs WHERE delivered_at IS NOT NULL")
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "runs", "logs", "1", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        assert follower.stdout.readline() == "hello\n"
        follower.send_signal(signal.SIGINT)
        assert follower.wait(20) == 130
        assert follower.stderr is not None
        assert follower.stderr.read() == ""


AGENTS_WORDS = "\x1b[2J bad\n\x9b31m \u202e \x9d0;title\x9c FAILED\rall passed \u061c"


def test_a_terminal_gets_nothing_of_an_agents_words_that_could_mislead(
    start_daemon: StartDaemon, tmp_path: Path
) -> None:
    (tmp_path / "words").write_bytes(
        b"\x1b[31mred\x1b[0m gr\xc3\xbcn " + AGENTS_WORDS.encode() + b"\x9b\x1b[8m end\xc3"
    )
    (tmp_path / "result").write_text(json.dumps({"status": "failed", "message": AGENTS_WORDS}))
    script = f"cat {tmp_path}/words; cp {tmp_path}/result $AGENTCRON_RESULT"
    daemon = start_daemon(f'[agents.a]\ncommand = ["sh", "-c", "{script}"]\n[agents.a.schedules.s]\nevery = "36500d"\n')
    for words in (["schedules", "trigger", "a/s", "--wait"], ["runs", "logs", "1"]):
        ours, theirs = pty.openpty()
        command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), *words]
        process = subprocess.Popen(command, stdout=theirs, stderr=theirs, env=daemon.environment)
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # a terminal that nobody has open any more
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
        process.wait(20)
        text = shown.decode()
        assert "\x1b[31mred\x1b[0m grün \\x1b[2J bad" in text
        assert not set(text) & {"\x9b", "\x9d", "\x9c", "\u202e", "\u061c"}
        assert "FAILED\r\nall passed" in text
        assert "\x1b[8m end\\xc3\x1b[0m" in text
        assert text.count("\x1b") == 4


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGHUP])
def test_a_signal_in_the_middle_of_the_imports_is_no_traceback(tmp_path: Path, number: int) -> None:
    (tmp_path / "config.toml").write_text('[daemon]\nstate_dir = "state"\n' + CONFIG)
    sent = f"import os; os.kill(os.getpid(), {int(number)})"
    (tmp_path / "structlog.py").write_text(f"{sent}\nraise SystemExit('alive')\n")  # what is imported first
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{Path(__file__).parents[2]}"}
    command = [sys.executable, "-m", "daemon", "--config", "config.toml", "run"]
    found = subprocess.run(command, capture_output=True, text=True, check=False, cwd=tmp_path, env=environment)
    told = (found.returncode, found.stderr.strip())
    assert told == ((-signal.SIGINT, "") if number == signal.SIGINT else (1, "alive"))


def test_waiting_helper_fails_when_nothing_comes() -> None:
    with pytest.raises(AssertionError, match="not within"):
        wait_until(lambda: None, deadline=0.05)
