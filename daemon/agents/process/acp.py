"""`type = "acp"`: a command that speaks the Agent Client Protocol, driven by a client that agentcron ships.

The supervisor starts the client, and the client starts the agent, so that the run continues without the daemon.
"""

import sys
from pathlib import Path
from typing import Any

from daemon.agents.base import Work
from daemon.agents.process.spec import process_spec, program_of
from daemon.config.schema import AcpAgent, Config
from daemon.version import VERSION

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from process.acp_client.client import main; main(sys.argv[2:])"


def acp_spec(work: Work, agent_config: AcpAgent, config: Config, umask: int) -> dict[str, Any]:
    """Return the spec of an acp run; raise SecretError if a secret cannot be read."""
    client = [sys.executable, "-I", "-S", "-c", _CODE, str(Path(__file__).parents[1])]
    patience = work.settings.kill_grace_seconds / 2  # the other half is left for ending the agent's processes
    command = [program_of(agent_config.command, config), *agent_config.command[1:]]
    secret = ",".join(name for name, value in agent_config.env.items() if value.is_hidden)
    return process_spec(
        work,
        agent_config,
        config,
        umask,
        [*client, VERSION, agent_config.permissions, secret, str(patience), *command],
        reads_input=True,
        ends_its_own=True,
    )
