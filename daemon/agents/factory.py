"""Which program text takes a run: one place that knows all kinds of agents."""

from functools import partial

import aiohttp
import structlog

from daemon.agents.base import RunSettings
from daemon.agents.process.acp import acp_spec
from daemon.agents.process.agent import Describe, SupervisedAgent
from daemon.agents.process.cgroups import Cgroups
from daemon.agents.process.command import command_spec
from daemon.agents.process.launcher import Nursery
from daemon.agents.remote.a2a import A2aAgent
from daemon.agents.remote.agent import RemoteAgent
from daemon.agents.remote.agentex import AgentexAgent
from daemon.config.schema import A2aAgent as A2aSettings
from daemon.config.schema import AcpAgent, BaseAgent, CommandAgent, Config, ProcessAgent
from daemon.config.schema import AgentexAgent as AgentexSettings
from daemon.config.secrets import read_secret
from daemon.config.values import Secret
from daemon.errors import SecretError

_LOG = structlog.get_logger()
_REMOTE: dict[str, type[RemoteAgent]] = {"agentex": AgentexAgent, "a2a": A2aAgent}


class Agents:
    """Makes the agent of each run."""

    def __init__(self, nursery: Nursery, cgroups: Cgroups | None, session: aiohttp.ClientSession, umask: int) -> None:
        self._nursery = nursery
        self._cgroups = cgroups
        self._session = session
        self.umask = umask
        """Under which agents create files."""

    def report_unenforced_limits(self, config: Config) -> None:
        """Log which agents have limits that nothing here can enforce."""
        held = self._cgroups.controllers if self._cgroups else frozenset()
        found = [
            name
            for name, agent in config.agents.items()
            if isinstance(agent, ProcessAgent)
            and ((agent.memory_max and "memory" not in held) or (agent.cpu_quota and "cpu" not in held))
        ]
        if found:
            _LOG.warning(
                "[run] memory_max and cpu_quota: limits of the host's use do not hold without a delegated cgroup",
                agents=", ".join(found),
            )

    def supervised(self, settings: ProcessAgent, config: Config) -> SupervisedAgent:
        """Return the agent for a new run of a process."""
        return SupervisedAgent(self._nursery, self._cgroups, self._describe(settings, config))

    def remote(self, terms: RunSettings, settings: BaseAgent | None, config: Config) -> RemoteAgent:
        """Return the agent for a run behind a URL, whose settings may have left the config since it began."""
        secret = None
        if isinstance(settings, AgentexSettings | A2aSettings):
            is_same = (settings.type, settings.url) == (terms.kind, terms.url)
            secret = settings.api_key if is_same else None  # it is for the server that it was written down with
        read_key = partial(_read_key, config, secret) if secret is not None else None
        return _REMOTE[terms.kind](self._session, read_key)

    def adopted(self, terms: RunSettings, settings: BaseAgent | None, config: Config) -> SupervisedAgent | RemoteAgent:
        """Return the agent for a run that an earlier daemon began."""
        if terms.kind in _REMOTE:
            return self.remote(terms, settings, config)
        return SupervisedAgent(self._nursery, self._cgroups, None)

    def _describe(self, settings: ProcessAgent, config: Config) -> Describe:
        match settings:
            case CommandAgent():
                return partial(command_spec, settings=settings, config=config, umask=self.umask)
            case AcpAgent():
                return partial(acp_spec, settings=settings, config=config, umask=self.umask)
        raise TypeError(f"no way to start {type(settings).__name__}")


def _read_key(config: Config, secret: Secret) -> str:
    """Return an API key; raise SecretError for one that no header can hold."""
    key = read_secret(config, "api_key", secret)
    if key and not (key.isascii() and key.isprintable()):
        raise SecretError("api_key: holds a line break or another character that an HTTP header cannot")
    return key
