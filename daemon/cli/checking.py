"""What `check` finds: settings that are probably not what was meant, and what a reload would change."""

import os
import shutil
from collections.abc import Iterator
from typing import Any

from daemon.agents.process import program_of
from daemon.cli.reading import has_database, reading
from daemon.config.schema import AgentexAgent, BaseAgent, Config, ProcessAgent, RemoteAgent
from daemon.config.secrets import read_secret
from daemon.config.values import Secret
from daemon.errors import SecretError
from daemon.model import Overlap
from daemon.schedules.declaring import Declared, declared_changes


def warnings_about(config: Config) -> Iterator[str]:
    """Yield one line for each thing worth a second look."""
    for name, agent in config.agents.items():
        place = f"agents.{name}"
        yield from _overlap(place, agent)
        if isinstance(agent, ProcessAgent):
            yield from _command(place, config, agent)
        if isinstance(agent, AgentexAgent) and agent.acp_type != "sync" and not agent.await_completion:
            yield f"{place}: without await_completion a run ends at the acknowledgement; overlap cannot see its work"
        if isinstance(agent, AgentexAgent) and agent.await_completion and not _has_tcp(config):
            yield f"{place}: without control.listen or public_url its hook_url leads to the socket of this host"
        if isinstance(agent, RemoteAgent) and agent.api_key is not None:
            yield from _secret(f"{place}.", config, "api_key", agent.api_key)
    for name, target in config.notify.items():
        if target.command is not None:
            yield from _program(f"notify.{name}", config, target.command)


def _has_tcp(config: Config) -> bool:
    return config.control.listen is not None or config.control.public_url is not None


def changes_by_reload(config: Config) -> list[dict[str, Any]]:
    """Return what a reload would do to the schedules in the database; without a database all would be created.

    Raise ConfigError if a declared name is taken by a created schedule.
    """
    if has_database(config):
        with reading(config) as connection:
            declared = declared_changes(connection, config)
    else:
        names = ((agent, name) for agent, settings in config.agents.items() for name in settings.schedules)
        declared = [Declared(f"{agent}/{name}", "created") for agent, name in names]
    return [one.view() for one in declared]


def _overlap(place: str, agent: BaseAgent) -> Iterator[str]:
    for name, schedule in agent.schedules.items():
        if schedule.overlap is Overlap.ALLOW_ALL and agent.max_concurrent == 1:
            yield f'{place}.schedules.{name}: overlap = "allow_all" changes nothing while {place}.max_concurrent is 1'


def _program(place: str, config: Config, command: list[str], path: str | None = None) -> Iterator[str]:
    program = program_of(command, config)
    if shutil.which(program, path=path or os.environ.get("PATH")) is None:
        yield f"{place}.command: {program!r} is not an executable program here"


def _command(place: str, config: Config, agent: ProcessAgent) -> Iterator[str]:
    own = agent.env.get("PATH")
    yield from _program(place, config, agent.command, own.value if own and own.source == "plain" else None)
    for name, secret in agent.env.items():
        yield from _secret(f"{place}.env.", config, name, secret)


def _secret(place: str, config: Config, name: str, secret: Secret) -> Iterator[str]:
    try:
        read_secret(config, name, secret)
    except SecretError as error:
        yield f"{place}{error}"
