"""`runs logs` and `--wait`: a transcript where the format is known, the bytes with --raw, the answer with --answer."""

import contextlib
import json
import os
import pty
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.api import call
from tests.support.configs import config_text
from tests.support.daemon_process import DaemonProcess, StartDaemon, daemons_in
from tests.support.database import change_database
from tests.support.streams import STREAMS

FILES = {stream.stem: stream for stream in STREAMS}
SHOWN = ("claude-command", "claude-hostile", "claude-killed", "gemini-json-cut")


def _config(agents: dict[str, list[str]]) -> str:
    tables = {
        name: {"command": command, "result_format": name.partition("-")[0], "on_bad_report": "ignore"}
        for name, command in agents.items()
    }
    return config_text(control={"socket": "c.sock"}, agents=tables)


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    """A daemon under which the stream of each agent in SHOWN was printed, in this order."""
    with daemons_in(tmp_path_factory.mktemp("ran")) as start:
        daemon = start(_config({name: ["cat", str(FILES[name])] for name in SHOWN}))
        for name in SHOWN:
            followed = daemon.cli("runs", "start", name, "--wait")
            assert followed.stdout == FILES[name].with_suffix(".txt").read_text(), followed.stderr
        yield daemon


def _number(name: str) -> str:
    return str(SHOWN.index(name) + 1)


@pytest.mark.parametrize("name", SHOWN)
def test_logs_are_a_transcript_and_raw_are_the_bytes(ran: DaemonProcess, name: str) -> None:
    logs = ("runs", "logs", _number(name))
    expected, printed = FILES[name].with_suffix(".txt").read_text(), FILES[name].read_bytes()
    assert ran.cli(*logs).stdout == expected
    assert ran.cli(*logs, "-f").stdout == expected
    assert _printed(ran, *logs, "--raw") == printed
    assert json.loads(ran.cli(*logs, "--json").stdout)["output"] == printed.decode(errors="replace")


def _printed(daemon: DaemonProcess, *words: str) -> bytes:
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), *words]
    return subprocess.run(command, check=True, capture_output=True).stdout


def test_the_answer_alone_is_shown(ran: DaemonProcess) -> None:
    logs = ("runs", "logs", _number("claude-command"), "--answer")
    assert ran.cli(*logs).stdout == ran.cli(*logs, "-f").stdout == "All 12 tests pass."
    expected = {"run_id": 1, "status": "completed", "answer": "All 12 tests pass."}
    assert json.loads(ran.cli(*logs, "--json").stdout) == expected
    assert call(ran, "GET", "/runs/1/answer").body == expected
    assert call(ran, "GET", "/runs/99/answer").status == 404
    assert call(ran, "GET", "/runs/1").body["result_format"] == "claude"


def test_an_answer_that_is_missing_is_reported(ran: DaemonProcess) -> None:
    (ran.state / "runs" / _number("claude-killed") / "answer.txt").unlink()
    told = ran.cli("runs", "logs", _number("claude-killed"), "--answer")
    assert told.stdout == "I begin."  # the beginning of it is in the database
    refused = ran.cli("runs", "logs", "1", "--answer", "--raw")
    assert (refused.returncode, refused.stdout) == (2, "")
    assert "only one of --raw and --answer" in refused.stderr


def test_a_long_answer_is_shown_with_the_mark_that_it_was_cut(start_daemon: StartDaemon, tmp_path: Path) -> None:
    (tmp_path / "stream").write_text(json.dumps({"type": "result", "result": "x" * 300_000}))
    daemon = start_daemon(_config({"claude-a": ["cat", str(tmp_path / "stream")]}))
    assert daemon.cli("runs", "start", "claude-a", "--wait").returncode == 0
    answer = daemon.cli("runs", "logs", "1", "--answer").stdout
    assert answer == "x" * 256 * 1024 + "\n[agentcron: the answer was cut here]\n"


def test_a_terminal_gets_nothing_of_a_hostile_stream_or_answer(ran: DaemonProcess) -> None:
    number = _number("claude-hostile")
    for words in ((number,), (number, "--answer")):
        shown = _on_terminal(ran, "runs", "logs", *words).decode()
        assert shown.endswith("\r\n")
        assert not {one for one in shown if not one.isprintable()} - {"\r", "\n"}
        assert r"\u2067\x1bc" in shown


def _on_terminal(daemon: DaemonProcess, *words: str) -> bytes:
    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), *words]
    with subprocess.Popen(command, stdout=theirs, stdin=theirs) as process:
        os.close(theirs)
        shown = b""
        with contextlib.suppress(OSError):  # the other end is closed
            while chunk := os.read(ours, 65536):
                shown += chunk
        os.close(ours)
        assert process.wait(20) == 0
    return shown


def test_a_run_is_followed_line_by_line_before_its_end(start_daemon: StartDaemon, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "gate")
    first, *others = FILES["claude-command"].read_text().splitlines(keepends=True)[1:]
    (tmp_path / "first").write_text(first)
    script = f"echo forged >../answer.txt; cd {tmp_path}; cat first gate"
    daemon = start_daemon(_config({"claude-a": ["sh", "-c", script]}))
    assert daemon.cli("runs", "start", "claude-a").returncode == 0
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "runs", "logs", "1", "-f"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as follower:
        assert follower.stdout is not None
        shown = follower.stdout.readline()
        refused = daemon.cli("runs", "logs", "1", "--answer")
        (tmp_path / "gate").write_text("".join(others))
        assert shown == "I run the tests.\n"
        assert shown + follower.stdout.read() == FILES["claude-command"].with_suffix(".txt").read_text()
        assert follower.wait(20) == 0
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "run 1 is running, and answers at its end; wait for that with -f" in refused.stderr


def test_a_run_of_no_known_format_is_shown_as_it_is(start_daemon: StartDaemon) -> None:
    printed = FILES["claude-command"].read_text()
    command = ["cat", str(FILES["claude-command"])]
    forge = ["sh", "-c", "echo forged >../answer.txt"]
    daemon = start_daemon(config_text(agents={"a": {"command": command}, "b": {"command": forge}}))
    assert daemon.cli("runs", "start", "a", "--wait").stdout == printed
    assert daemon.cli("runs", "logs", "1").stdout == printed
    assert daemon.cli("runs", "start", "b", "--wait").returncode == 0
    refused = daemon.cli("runs", "logs", "2", "--answer")
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "run 2 left no answer; `agentcron runs logs 2` shows what it did" in refused.stderr


def test_a_format_of_a_later_version_is_shown_as_it_is(start_daemon: StartDaemon) -> None:
    stream = FILES["codex-answer"]
    daemon = start_daemon(_config({"codex-a": ["cat", str(stream)]}))
    assert daemon.cli("runs", "start", "codex-a", "--wait").stdout == stream.with_suffix(".txt").read_text()
    daemon.stop()
    change_database(daemon, "UPDATE runs SET settings = json_set(settings, '$.result_format', 'later')")
    assert daemon.cli("runs", "logs", "1").stdout == stream.read_text()
