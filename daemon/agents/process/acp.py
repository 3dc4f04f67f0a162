"""`type = "acp"`: a command that speaks the Agent Client Protocol, driven by a client that agentcron ships.

The supervisor starts the client, and the client starts the agent, so that the run continues without the daemon.
"""

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from daemon.agents.base import Work
from daemon.agents.process.acp_client.options import Options
from daemon.agents.process.agent import UnfitError
from daemon.agents.process.spec import process_spec, program_of, with_cap
from daemon.config.schema import AcpAgent, Config, McpServer
from daemon.config.secrets import read_secret
from daemon.config.values import Secret
from daemon.errors import SecretError
from daemon.version import VERSION

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from process.acp_client.client import main; main(sys.argv[2:])"
_LONGEST_VARIABLE = 128 * 1024 - 1  # MAX_ARG_STRLEN of execve(2), less the final NUL


def acp_spec(work: Work, agent_config: AcpAgent, config: Config, umask: int) -> dict[str, Any]:
    """Return the spec of an acp run.

    Raise SecretError if a secret cannot be read, and UnfitError if the settings do not fit into the client's variable.
    """
    client = [sys.executable, "-I", "-S", "-c", _CODE, str(Path(__file__).parents[1])]
    command = [program_of(agent_config.words, config), *with_cap(agent_config.words[1:], agent_config)]
    spec = process_spec(work, agent_config, config, umask, [*client, *command], reads_input=True, ends_its_own=True)
    hidden: list[str] = []
    servers = [_mcp_server(name, server, config, hidden) for name, server in agent_config.mcp_servers.items()]
    options = Options(
        version=VERSION,
        patience=work.settings.kill_grace_seconds / 2,  # the other half is left for ending the agent's processes
        permissions=agent_config.permission_answers,
        secret_variables=[name for name, value in agent_config.env.items() if value.is_hidden],
        secret_values=hidden,
        mode=agent_config.mode,
        model=agent_config.model,
        session=work.session,
        mcp_servers=servers,
    )
    spec["env"] |= _fitting(options.variable())
    spec["hidden"] += hidden
    return spec


def _fitting(variable: dict[str, str]) -> dict[str, str]:
    if any(len(os.fsencode(f"{name}={value}")) > _LONGEST_VARIABLE for name, value in variable.items()):
        raise UnfitError("its mcp_servers, with their secrets, are longer than 128 KiB; give them files instead")
    return variable


def _mcp_server(name: str, server: McpServer, config: Config, hidden: list[str]) -> dict[str, Any]:
    """Return a server as the protocol has it; add its secrets to `hidden`. Raise SecretError for one without value."""
    key = f"mcp_servers.{name}"
    if server.command is not None:
        program, *arguments = server.command
        variables = _named_values(f"{key}.env", server.env, config, hidden)
        return {"name": name, "command": program_of([program], config), "args": arguments, "env": variables}
    headers = _named_values(f"{key}.headers", server.headers, config, hidden)
    return {"type": server.transport, "name": name, "url": server.url, "headers": headers}


def _named_values(key: str, secrets: Mapping[str, Secret], config: Config, hidden: list[str]) -> list[dict[str, str]]:
    values = []
    for name, secret in secrets.items():
        try:
            value = read_secret(config, name, secret)
        except SecretError as error:
            raise SecretError(f"{key}.{error}") from None
        values.append({"name": name, "value": value})
        if secret.is_hidden and value:
            hidden.append(value)
    return values
