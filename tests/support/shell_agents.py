"""Agents that are shell scripts, run each second."""

from collections.abc import Sequence
from typing import Any

from tests.support.daemon_process import StartDaemon
from tests.support.runs import first_run

SECOND_BY_SECOND = '[agents.a.schedules.s]\nevery = "1s"\n'


def config(script: str, *settings: str, schedule: str = SECOND_BY_SECOND) -> str:
    """Return a config with one agent `a` that runs a shell script each second while it is idle."""
    return "\n".join(["[agents.a]", f"command = ['sh', '-c', '''{script}''']", *settings, schedule])


def beside_each_other(scripts: Sequence[str], *settings: str) -> str:
    """Return a config with an agent for each script: `a0`, `a1` ..."""
    agents = [config(script, *settings).replace("[agents.a", f"[agents.a{n}") for n, script in enumerate(scripts)]
    return "\n".join(["[daemon]", "state_dir = 'state'", "max_concurrent_runs = 20", *agents])


def side_by_side(start_daemon: StartDaemon, scripts: Sequence[str], *settings: str) -> list[dict[str, Any]]:
    """Run agents under one daemon, each with a script; return the first run of each, ended."""
    daemon = start_daemon(beside_each_other(scripts, *settings))
    return [first_run(daemon, number) for number in range(len(scripts))]


TICK = '[agents.a.schedules.s]\nevery = "1s"\n'


def agent(script: str, *settings: str, daemon: str = "") -> str:
    head = f'[daemon]\nstate_dir = "state"\n{daemon}\n'
    return head + "\n".join(["[agents.a]", f"command = ['sh', '-c', '''{script}''']", *settings, TICK])
