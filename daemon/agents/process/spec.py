"""The spec that starts a run under its supervisor: program, environment, input and limits."""

import os
import pwd
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from daemon.agents.base import Work
from daemon.agents.process.supervisor import result_file, status
from daemon.config.schema import AcpAgent, Config, Expect, ProcessAgent
from daemon.config.secrets import resolve_environment
from daemon.config.values import MAX_COST

INPUT, PARAMS, METADATA = "input.txt", "params.json", "metadata.json"
"""The files in a run's folder with its input, its parameters and its metadata."""
_DEFAULT_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def process_spec(
    work: Work,
    agent_config: ProcessAgent,
    config: Config,
    umask: int,
    argv: list[str],
    *,
    reads_input: bool,
    ends_its_own: bool = False,
) -> dict[str, Any]:
    """Return the spec of a run; it holds secrets, is sent over a socket and never touches the disk.

    `agent_config` supplies the variables of `env`; limits come from the settings that the run started with.
    `ends_its_own` marks a program that ends the rest of its process tree itself on SIGTERM. Raise SecretError if a
    secret cannot be read.
    """
    limits, expect = work.settings, agent_config.expect
    is_answer_known = limits.result_format != "none" or isinstance(agent_config, AcpAgent)
    environment = resolve_environment(config, agent_config.env)
    base = {**base_environment(), "TMPDIR": str(work.run_dir / "tmp")}
    return {
        "version": status.VERSION,
        "run_dir": str(work.run_dir),
        "argv": argv,
        "cwd": str(work.workspace),
        "lock": str(work.workspace) if work.locks_workspace else None,
        "env": {**base, **environment.values, **_own_variables(work)},
        "stdin": str(work.run_dir / INPUT) if reads_input else os.devnull,
        "umask": umask,
        "timeout": max(0.0, limits.timeout_seconds - work.spent_seconds),
        "idle_timeout": limits.idle_timeout_seconds,
        "kill_grace": limits.kill_grace_seconds,
        "max_output": limits.max_output,
        "result_format": limits.result_format,
        "ends_its_own": ends_its_own,
        "hidden": list(environment.hidden),
        "expect": None if expect == Expect() else _expected(expect, config, is_answer_known=is_answer_known),
    }


def _expected(expect: Expect, config: Config, *, is_answer_known: bool) -> dict[str, Any]:
    """Return what the supervisor looks for once the work has ended."""
    command = expect.command
    return {
        "answer": ("report" if is_answer_known else "output") if expect.answer else None,
        "artifacts": expect.artifacts,
        "command": [program_of(command, config), *command[1:]] if command else None,
        "not_output": expect.not_output,
    }


def with_cap(arguments: Sequence[str], agent_config: ProcessAgent) -> list[str]:
    """Return arguments of an agent's command, with the cap on the cost of a run where they ask for it."""
    cap = agent_config.budget.max_cost_usd
    if cap is None:
        return [*arguments]
    return [MAX_COST.sub(f"{cap:.4f}".rstrip("0").rstrip("."), argument) for argument in arguments]


def program_of(command: Sequence[str], config: Config) -> str:
    """Return the program of a command: relative paths start at the config's folder, bare names are left to PATH."""
    program = command[0]
    return str(config.resolve(Path(program))) if "/" in program else program


def base_environment(environment: Mapping[str, str] = os.environ) -> dict[str, str]:
    """Return the few variables of the daemon's own environment that every command gets."""
    user = _own_user()
    base = {
        "PATH": environment.get("PATH", _DEFAULT_PATH),
        "HOME": environment.get("HOME", user.pw_dir),
        "USER": user.pw_name,
    }
    return base | {name: environment[name] for name in ("LANG", "TZ") if name in environment}


@cache
def _own_user() -> pwd.struct_passwd:
    return pwd.getpwuid(os.getuid())


def _own_variables(work: Work) -> dict[str, str]:
    folder: Path = work.run_dir
    sessions = {"AGENTCRON_SESSION": work.session, "AGENTCRON_PREVIOUS_SESSION": work.previous_session}
    return {
        "AGENTCRON_RUN_ID": str(work.run_id),
        "AGENTCRON_RUN_NAME": work.run_name,
        "AGENTCRON_AGENT": work.agent,
        "AGENTCRON_SCHEDULE": work.schedule,
        "AGENTCRON_SCHEDULED_FOR": work.scheduled_for,
        "AGENTCRON_ATTEMPT": str(work.attempt),
        "AGENTCRON_TRIGGER": work.trigger,
        "AGENTCRON_IDEMPOTENCY_KEY": work.idempotency_key,
        "AGENTCRON_WORKSPACE": str(work.workspace),
        "AGENTCRON_INPUT": str(folder / INPUT),
        "AGENTCRON_PARAMS": str(folder / PARAMS),
        "AGENTCRON_METADATA": str(folder / METADATA),
        "AGENTCRON_ARTIFACTS": str(folder / "artifacts"),
        "AGENTCRON_RESULT": str(folder / result_file.NAME),
        **{name: session for name, session in sessions.items() if session is not None},
    }
