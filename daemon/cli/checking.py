"""What `check` warns about: settings that are allowed but probably not what was meant."""

import os
import shutil
from collections.abc import Iterator

from daemon.agents.command import program_of
from daemon.config.inactive import inactive_settings
from daemon.config.schema import AgentexAgent, BaseAgent, Config, ProcessAgent
from daemon.config.secrets import read_secret
from daemon.errors import SecretError
from daemon.model import Overlap


def warnings_about(config: Config) -> Iterator[str]:
    """Yield one line for each thing worth a second look."""
    for name, agent in config.agents.items():
        place = f"agents.{name}"
        yield from _overlap(place, agent)
        if isinstance(agent, ProcessAgent):
            yield from _command(place, config, agent)
        if isinstance(agent, AgentexAgent) and agent.acp_type != "sync" and not agent.await_completion:
            yield f"{place}: without await_completion a run ends at the acknowledgement; overlap cannot see its work"
    for setting in inactive_settings(config):
        yield f"{setting}: not yet active in this version"


def _overlap(place: str, agent: BaseAgent) -> Iterator[str]:
    for name, schedule in agent.schedules.items():
        if schedule.overlap is Overlap.ALLOW_ALL and agent.max_concurrent == 1:
            yield f'{place}.schedules.{name}: overlap = "allow_all" changes nothing while {place}.max_concurrent is 1'


def _command(place: str, config: Config, agent: ProcessAgent) -> Iterator[str]:
    program = program_of(agent, config)
    own = agent.env.get("PATH")
    path = own.value if own is not None and own.source == "plain" else os.environ.get("PATH")
    if shutil.which(program, path=path) is None:
        yield f"{place}.command: {program!r} is not an executable program here"
    for name, secret in agent.env.items():
        try:
            read_secret(config, name, secret)
        except SecretError as error:
            yield f"{place}.env.{error}"
