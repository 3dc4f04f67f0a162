"""Agents that are shell scripts, several beside each other under one daemon."""

from collections.abc import Sequence
from typing import Any

from tests.support.configs import config_text, shell_agent
from tests.support.daemon_process import StartDaemon
from tests.support.runs import first_run


def beside_each_other(scripts: Sequence[str], **keys: Any) -> str:  # noqa: ANN401 - of any setting
    """Return a config with an agent for each script: `a0`, `a1` ..."""
    agents = {f"a{number}": shell_agent(script, **keys) for number, script in enumerate(scripts)}
    return config_text(daemon={"max_concurrent_runs": 20}, agents=agents)


def side_by_side(start_daemon: StartDaemon, scripts: Sequence[str], **keys: object) -> list[dict[str, Any]]:
    """Run agents under one daemon, each with a script; return the first run of each, ended."""
    daemon = start_daemon(beside_each_other(scripts, **keys))
    return [first_run(daemon, number) for number in range(len(scripts))]
