"""What the daemon tells the client: in one variable, because it may hold secrets, which the agent does not inherit."""

import json
import os
from dataclasses import asdict, dataclass, field
from typing import Any

from ..supervisor.mask import Secrets

VARIABLE = "AGENTCRON_ACP"
"""The variable that holds the options, as JSON."""
EVERY_KIND = "*"
"""Stands for all kinds of tools that have no answer of their own."""


@dataclass(frozen=True)
class Options:
    """How a session with an agent is to be held."""

    version: str
    """Of agentcron."""
    patience: float
    """Seconds that the agent has to end its turn after a cancel."""
    permissions: dict[str, str]
    """The answer to permission requests, `allow` or `reject`, by the kind of the tool; `*` for all other kinds."""
    secret_variables: list[str] = field(default_factory=list)
    """The environment variables whose values are masked in what the agent says."""
    secret_values: list[str] = field(default_factory=list, repr=False)
    """Other values that are masked."""
    mode: str | None = None
    model: str | None = None
    session: str | None = None
    """The session to continue; None for a new one."""
    mcp_servers: list[dict[str, Any]] = field(default_factory=list, repr=False)
    """As `session/new` takes them, but for programs, which are still to be found in PATH."""

    def variable(self) -> dict[str, str]:
        """Return the environment variable that holds the options."""
        return {VARIABLE: json.dumps(asdict(self))}

    def secrets(self) -> Secrets:
        """Return what is masked; the values of the variables are as they are now."""
        return Secrets([*(os.environ.get(name, "") for name in self.secret_variables), *self.secret_values])


def take_options() -> Options:
    """Return the options of this process, and take them out of its environment."""
    return Options(**json.loads(os.environ.pop(VARIABLE)))
