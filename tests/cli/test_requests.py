"""What commands send to the daemon: inputs from files, conditions, and mistakes in the words of the command line."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import typer
from pydantic import BaseModel

from daemon.api import requests
from daemon.cli.app import app
from daemon.cli.client import option_of
from daemon.cli.input_text import read_input
from daemon.cli.schedule_views import due_times_of
from daemon.config.loading import load_config
from daemon.model import LARGEST_BODY
from tests.support.configs import config_text
from tests.support.daemon_process import DaemonProcess, daemons_in

pytestmark = pytest.mark.xdist_group("cli-requests")
TEXT = config_text(
    control={"socket": "c.sock"},
    agents={"a": {"command": ["cat"], "schedules": {"s": {"every": "36500d", "input": "usual"}}}},
)
GIVEN = {
    "plain text": "plain text",
    "@@alice": "@alice",
    "@@@x": "@@x",
    "--": "--",
    "": "",
    "@prompt.md": "grüße \n",
    "-": "from\nstdin",
    "@-": "from\nstdin",
    "@/dev/null": "",
}
WRONG = {
    "@none.md": "there is no file 'none.md'; for text that begins with an @, write @@",
    "@pipe": "cannot read 'pipe': not a regular file; give its content on standard input, with -",
    "@/dev/zero": "cannot read '/dev/zero': not a regular file",
    "@.": "cannot read '.': Is a directory",
    "@": "there is no file ''",
    "@a\0b": "cannot read 'a\\x00b': embedded null byte",
    "@latin.md": "latin.md is not UTF-8 text: see the byte at offset 2",
    "@large.md": "large.md has more than 1 MiB",
    "not \udcff": "the text is not UTF-8 text",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with files, in which we work and where standard input has something."""
    (tmp_path / "prompt.md").write_text("grüße \n")
    (tmp_path / "latin.md").write_bytes("grüße".encode("latin-1"))
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "large.md").write_bytes(b"x" * (LARGEST_BODY + 1))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"from\nstdin")))
    return tmp_path


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DaemonProcess]:
    with daemons_in(tmp_path_factory.mktemp("requests")) as start:
        yield start(TEXT)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("given", GIVEN)
def test_an_input_is_text_or_in_a_file_or_on_standard_input(given: str) -> None:
    assert read_input("--input", given) == GIVEN[given]


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize("given", WRONG)
def test_an_input_that_cannot_be_used_is_refused_with_the_reason(given: str) -> None:
    with pytest.raises(typer.BadParameter) as refused:
        read_input("--input", given)
    assert WRONG[given] in str(refused.value)
    assert refused.value.param_hint == "--input"


def test_a_pipe_of_the_shell_is_read() -> None:
    reading, writing = os.pipe()
    os.write(writing, b"from a command")
    os.close(writing)
    assert read_input("--input", f"@/dev/fd/{reading}") == "from a command"
    os.close(reading)


def test_standard_input_is_read_no_further_than_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    with Path("/dev/zero").open(encoding="utf-8") as endless:
        monkeypatch.setattr(sys, "stdin", endless)
        with pytest.raises(typer.BadParameter, match="standard input has more than 1 MiB"):
            read_input("--input", "-")
    monkeypatch.setattr(sys, "stdin", None)
    with pytest.raises(typer.BadParameter, match="standard input is closed"):
        read_input("--input", "-")


def test_inputs_of_all_commands_come_from_files_and_pipes(daemon: DaemonProcess, folder: Path) -> None:
    command = [sys.executable, "-m", "daemon", "--config", str(daemon.config), "schedules", "trigger", "a/s"]
    piped = subprocess.run(
        [*command, "--input", "-", "--wait"], input="piped in", capture_output=True, text=True, check=True
    )
    assert piped.stdout == "piped in"
    for words in (("create", "a/new", "--every", "9h"), ("update", "a/new"), ("trigger", "a/new")):
        told = daemon.cli("schedules", *words, "--input", f"@{folder}/prompt.md", "--json")
        assert told.returncode == 0, told.stderr
        if words[0] != "trigger":
            assert json.loads(told.stdout)["initial_input"]["content"] == "grüße \n"
    daemon.wait_for_row("SELECT 1 FROM runs WHERE input_content = ? AND trigger = 'manual'", "grüße \n")
    missing = daemon.cli("schedules", "trigger", "a/s", "--input", "@none.md")
    assert (missing.returncode, "--input: there is no file 'none.md'" in missing.stderr) == (2, True), missing.stderr


def test_an_input_as_large_as_the_api_takes_is_sent_and_a_larger_request_is_not(
    daemon: DaemonProcess, folder: Path
) -> None:
    (folder / "most.md").write_text("€" * 300_000, encoding="utf-8")  # as escapes it would be twice the limit
    assert daemon.cli("schedules", "trigger", "a/s", "--input", f"@{folder}/most.md").returncode == 0
    (folder / "quotes.md").write_text('"' * 600_000)
    refused = daemon.cli("schedules", "trigger", "a/s", "--input", f"@{folder}/quotes.md")
    assert (refused.returncode, "1 MiB is the limit; shorten its input" in refused.stderr) == (2, True), refused.stderr


def test_every_change_can_depend_on_the_version(daemon: DaemonProcess) -> None:
    assert daemon.cli("schedules", "create", "a/v", "--every", "1h").returncode == 0
    [due] = json.loads(daemon.cli("schedules", "next", "a/v", "-n", "1", "--json").stdout)["next_action_times"]
    for words in (
        ("update", "a/v", "--every", "2h"),
        ("pause", "a/v"),
        ("resume", "a/v"),
        ("trigger", "a/v"),
        ("skip", "a/v", due),
        ("unskip", "a/v", due),
        ("backfill", "a/v", "--from", "2026-01-01T00:00:00Z", "--to", "2026-01-01T00:00:00Z"),
        ("delete", "a/v"),
    ):
        stale = daemon.cli("schedules", *words, "--if-match", "7")
        assert (stale.returncode, stale.stdout) == (1, ""), stale.stderr
        assert stale.stderr == (
            "agentcron: a/v is at version 1, not 7: it has changed since then, and nothing was done; "
            "read it again and repeat the change\n"
        )
    assert daemon.cli("schedules", "pause", "a/v", "--if-match", "1").returncode == 0
    assert daemon.cli("schedules", "delete", "a/v", "--if-match", "2").returncode == 0
    bad = daemon.cli("schedules", "delete", "a/v", "--if-match", "x")
    assert (bad.returncode, "--if-match" in bad.stderr) == (2, True)


MISTAKES = [
    (("schedules", "update", "a/w", "--timezone", "Mars/Olympus"), "--timezone: 'Mars/Olympus'"),
    (("schedules", "update", "a/w", "--catchup", "some"), "--catchup: should be"),
    (("schedules", "update", "a/w", "--metadata", '{"display_name": 1}'), "--metadata: display_name should be"),
    (("schedules", "update", "a/w", "--start-at", "9999-01-01T00:00:00Z"), "--start-at: '9999"),
    (("schedules", "update", "a/w", "--input", "\udcff"), "--input: the text is not UTF-8"),
    (("schedules", "pause", "a/w", "--note", "x" * 1001), "--note: String should have at most"),
    (("schedules", "backfill", "a/w", "--from", "soon", "--to", "soon"), "--from: 'soon' is not"),
    (("schedules", "skip", "a/w", "soon"), "TIME: 'soon' is not"),
    (("schedules", "trigger", "a/w", "--key", "a b"), "--key: a key has 1 to 255"),
]


def test_mistakes_name_the_option(daemon: DaemonProcess) -> None:
    assert daemon.cli("schedules", "create", "a/w", "--every", "9h").returncode == 0
    for arguments, why in MISTAKES:
        told = daemon.cli(*arguments)
        assert (told.returncode, why in told.stderr) == (2, True), told.stderr
    assert daemon.cli("schedules", "trigger", "a/w", "--key", "k").returncode == 0
    reused = daemon.cli("schedules", "trigger", "a/w", "--key", "k", "--input", "other")
    assert (reused.returncode, "the --key 'k' was already used" in reused.stderr) == (1, True), reused.stderr


SENT_BY_COMMANDS: list[type[BaseModel]] = [
    requests.ScheduleChange,
    requests.PauseRequest,
    requests.StartRequest,
    requests.TriggerRequest,
    requests.BackfillRequest,
    requests.CleanRequest,
    requests.DiscardRequest,
    requests.RetentionRequest,
    requests.ScheduleQuery,
    requests.FireQuery,
    requests.RunQuery,
]


def test_every_field_that_commands_send_is_known_by_its_option() -> None:
    options = {
        option
        for group in typer.main.get_command(app).commands.values()  # type: ignore[attr-defined]
        for command in getattr(group, "commands", {"": group}).values()
        for parameter in command.params
        for option in parameter.opts
    }
    for shape in SENT_BY_COMMANDS:
        for name, field in shape.model_fields.items():
            called = "initial_input.content" if name == "initial_input" else field.alias or name
            assert option_of(called) in options, called


def test_next_due_times_leave_out_those_to_be_skipped_also_for_who_must_ask_the_daemon(
    daemon: DaemonProcess, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert daemon.cli("schedules", "create", "a/asked", "--cron", "0 7 * * *").returncode == 0
    ask = ("schedules", "next", "a/asked", "-n", "2", "--json")
    first, second = json.loads(daemon.cli(*ask).stdout)["next_action_times"]
    assert daemon.cli("schedules", "skip", "a/asked", first).returncode == 0
    assert json.loads(daemon.cli(*ask).stdout)["next_action_times"][0] == second
    config = load_config(daemon.config)
    from_database = due_times_of(config, "a/asked")
    monkeypatch.setattr("os.access", lambda *_: False)
    definition, skips = due_times_of(config, "a/asked")
    assert (definition, skips) == from_database
    assert (definition["cron"], skips) == ("0 7 * * *", [first])
