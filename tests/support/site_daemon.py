"""A daemon whose agent works in clones of a repository."""

from pathlib import Path

from tests.support.api import call
from tests.support.daemon_process import DaemonProcess

CONFIG = """\
[daemon]
state_dir = "state"
max_concurrent_runs = 8
[control]
socket = "c.sock"
[cleanup]
max_age = "24h"
{cleanup}
[environments.site]
mode = "git"
repository = "origin"
fetch_every = "0s"
{environment}
[agents.a]
command = ["sh", "-c", "{script}"]
environment = "site"
max_concurrent = 8
kill_grace = "1s"
[agents.a.schedules.s]
every = "20d"
"""
WORK = "git status -sb; echo mine > mine.txt; exit $(cat)"


def config(script: str = WORK, cleanup: str = "", environment: str = "") -> str:
    return CONFIG.format(script=script, cleanup=cleanup, environment=environment)


def trigger(daemon: DaemonProcess, text: str = "0") -> int:
    answer = call(daemon, "POST", "/agents/a/schedules/s/trigger", {"initial_input": {"content": text}})
    return int(answer.body["id"])


def ended(daemon: DaemonProcess, text: str = "0") -> int:
    run = trigger(daemon, text)
    daemon.wait_for_row("SELECT 1 FROM runs WHERE id = ? AND completed_at IS NOT NULL", run)
    return run


def place_of(daemon: DaemonProcess, run: int) -> Path:
    return daemon.state / "environments" / "site" / "tasks" / str(run)
