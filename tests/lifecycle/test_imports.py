"""What a daemon keeps in memory: not the modules that only other commands, or some configs, need."""

import signal
from pathlib import Path

import pytest

from daemon.cli.main import plain_run
from tests.support.daemon_process import StartDaemon
from tests.support.waiting import wait_until

PLAIN = '[agents.a]\ncommand = ["true"]\n[agents.a.schedules.s]\ncron = "0 0 1 1 *"\n'
OPTIONAL = {
    "typer",  # every other command
    "daemon.cli.app",
    "daemon.cli.client",
    "daemon.doctor",
    "daemon.agents.remote.agent",  # an agent behind a URL
    "daemon.agents.remote.a2a",
    "daemon.agents.remote.agentex",
    "daemon.recovery.restore",
    "daemon.store.backup",  # `agentcron backup` reads the database itself
    "difflib",  # a misspelt key
    "daemon.workspaces.scripting",  # the functions for scripts, and what the workspace helper does
    "daemon.workspaces.salvage",
}
TELL_MODULES = """
import os, signal, sys
def tell(*_):
    with open("{file}.part", "w") as stream:
        stream.write("\\n".join(sys.modules))
    os.rename("{file}.part", "{file}")
signal.signal(signal.SIGUSR2, tell)
"""


def modules_at_ready(start_daemon: StartDaemon, folder: Path, config: str) -> set[str]:
    """Ask a daemon that has become ready which modules it has imported."""
    file = folder / "modules"
    daemon = start_daemon(config, anew=True, slowed=TELL_MODULES.format(file=file))
    daemon.process.send_signal(signal.SIGUSR2)
    wait_until(file.exists)
    return set(file.read_text().split())


def test_a_plain_config_imports_nothing_optional(start_daemon: StartDaemon, tmp_path: Path) -> None:
    found = modules_at_ready(start_daemon, tmp_path, PLAIN)
    assert {"daemon.lifecycle.service", "structlog"} <= found
    assert not OPTIONAL & found


@pytest.mark.parametrize(
    ("arguments", "start"),
    [
        (["run"], (None, False)),
        (["run", "--accept-data-loss"], (None, True)),
        (["--config", "a b.toml", "run"], (Path("a b.toml"), False)),
        (["--config", "run", "run", "--accept-data-loss"], (Path("run"), True)),
    ],
)
def test_a_plain_start_needs_no_parser(arguments: list[str], start: tuple[Path | None, bool]) -> None:
    assert plain_run(arguments) == start


@pytest.mark.parametrize(
    "arguments",
    [
        [],
        ["--config=a.toml", "run"],
        ["--config", "run"],
        ["run", "--help"],
        ["run", "run"],
        ["run", "--accept-data-loss", "--accept-data-loss"],
        ["--config", "a.toml", "--config", "b.toml", "run"],
        ["retention", "run"],
        ["--version", "run"],
    ],
)
def test_any_other_command_line_is_left_to_the_parser(arguments: list[str]) -> None:
    assert plain_run(arguments) is None
