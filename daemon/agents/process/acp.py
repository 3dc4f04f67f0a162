"""`type = "acp"`: a command that speaks the Agent Client Protocol, with a client of ours before it.

The client is the program that the supervisor starts, so that the run goes on without the daemon.
"""

import sys
from pathlib import Path
from typing import Any

from daemon import __version__
from daemon.agents.base import Work
from daemon.agents.process.spec import process_spec, program_of
from daemon.config.schema import AcpAgent, Config

_CODE = "import sys; sys.path.insert(0, sys.argv[1]); from acp_client.client import main; main(sys.argv[2:])"


def acp_spec(work: Work, settings: AcpAgent, config: Config, umask: int) -> dict[str, Any]:
    """Return what the supervisor of the client is told; raise SecretError."""
    client = [sys.executable, "-I", "-S", "-c", _CODE, str(Path(__file__).parent)]
    patience = settings.kill_grace.total_seconds() / 2  # the rest of it is for the agent's processes
    command = [program_of(settings.command, config), *settings.command[1:]]
    return process_spec(
        work,
        settings,
        config,
        umask,
        [*client, __version__, settings.permissions, str(patience), *command],
        reads_input=True,
        ends_its_own=True,
    )
