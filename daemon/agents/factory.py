"""Create the agent object for a run: the one place that knows all agent types.

The clients of agents behind a URL are imported for the first run that needs one: most configs have no such agent.
"""

import contextlib
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING

import aiohttp
import structlog

from daemon.agents.base import RunSettings
from daemon.agents.process.acp import acp_spec
from daemon.agents.process.agent import Describe, SupervisedAgent
from daemon.agents.process.cgroup_delegation import Cgroups
from daemon.agents.process.command import command_spec
from daemon.agents.process.launcher import Nursery
from daemon.agents.process.supervisor.mask import Secrets
from daemon.config.schema import A2aAgent as A2aConfig
from daemon.config.schema import AcpAgent, BaseAgent, CommandAgent, Config, ProcessAgent
from daemon.config.schema import AgentexAgent as AgentexConfig
from daemon.config.secrets import read_secret
from daemon.config.values import Secret
from daemon.errors import SecretError

if TYPE_CHECKING:
    from daemon.agents.remote.agent import RemoteAgent

_LOG = structlog.get_logger()
_REMOTE = {"agentex", "a2a"}


class Agents:
    """Creates the agent object of each run."""

    def __init__(self, nursery: Nursery, cgroups: Cgroups | None, session: aiohttp.ClientSession, umask: int) -> None:
        self._nursery = nursery
        self._cgroups = cgroups
        self._session = session
        self.umask = umask
        """Under which agents create files."""

    def warn_of_unenforced_limits(self, config: Config) -> None:
        """Log which agents have limits that cannot be enforced on this host."""
        enforced = self._cgroups.controllers if self._cgroups else frozenset()
        affected = [
            name
            for name, agent in config.agents.items()
            if isinstance(agent, ProcessAgent) and not enforced.issuperset(agent.needed_controllers)
        ]
        if affected:
            _LOG.warning(
                "[run] memory_max, cpu_quota and tasks_max are not enforced: no delegated cgroup",
                agents=", ".join(affected),
            )

    def supervised(self, agent_config: ProcessAgent, config: Config) -> SupervisedAgent:
        """Return the agent for a new run of a process on this host."""
        return SupervisedAgent(self._nursery, self._cgroups, self._describe(agent_config, config))

    def remote(self, settings: RunSettings, agent_config: BaseAgent | None, config: Config) -> "RemoteAgent":
        """Return the agent for a run behind a URL; its section may have left the config since the run started."""
        return _remote_type(settings.kind)(self._session, _key_reader(settings, agent_config, config))

    def secrets_of(
        self, settings: RunSettings, agent_config: BaseAgent | None, config: Config, hook_token: str
    ) -> Secrets:
        """Return the secrets of a run behind a URL, with the key as it is now; blocks."""
        read_key = _key_reader(settings, agent_config, config)
        with contextlib.suppress(SecretError):
            return Secrets([hook_token, read_key() if read_key is not None else ""])
        return Secrets([hook_token])

    def adopted(
        self, settings: RunSettings, agent_config: BaseAgent | None, config: Config
    ) -> "SupervisedAgent | RemoteAgent":
        """Return the agent for a run that an earlier daemon started."""
        if settings.kind in _REMOTE:
            return self.remote(settings, agent_config, config)
        return SupervisedAgent(self._nursery, self._cgroups, None)

    def _describe(self, agent_config: ProcessAgent, config: Config) -> Describe:
        match agent_config:
            case CommandAgent():
                return partial(command_spec, agent_config=agent_config, config=config, umask=self.umask)
            case AcpAgent():
                return partial(acp_spec, agent_config=agent_config, config=config, umask=self.umask)
        raise TypeError(f"no process can be started for {type(agent_config).__name__}")


def _remote_type(kind: str) -> type["RemoteAgent"]:
    """Return the class of agents of a type that is reached over the network."""
    if kind == "agentex":
        from daemon.agents.remote.agentex import AgentexAgent  # noqa: PLC0415 - as said above

        return AgentexAgent
    from daemon.agents.remote.a2a import A2aAgent  # noqa: PLC0415

    return A2aAgent


def _key_reader(settings: RunSettings, agent_config: BaseAgent | None, config: Config) -> Callable[[], str] | None:
    """Return a function that reads the API key of a run, None if it has none."""
    if not isinstance(agent_config, AgentexConfig | A2aConfig) or agent_config.api_key is None:
        return None
    if (agent_config.type, agent_config.url) != (settings.kind, settings.url):
        return None  # a key goes only to the server it was configured for
    return partial(_read_key, config, agent_config.api_key)


def _read_key(config: Config, secret: Secret) -> str:
    """Return an API key; raise SecretError if it cannot be read or does not fit into an HTTP header."""
    key = read_secret(config, "api_key", secret)
    if key and not (key.isascii() and key.isprintable()):
        raise SecretError("api_key: contains a line break or another character that is not allowed in an HTTP header")
    return key
