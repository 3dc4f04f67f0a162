"""The client of acp agents as a process, without a daemon and a supervisor."""

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from daemon.agents.process import acp
from daemon.agents.process.acp_client.options import VARIABLE

_PEERS = Path(__file__).parent / "peers"
PLAIN = (sys.executable, str(_PEERS / "acp_plain.py"))
"""The command of an agent that behaves as real adapters do; its argument is the behaviour."""
SDK = (sys.executable, str(_PEERS / "acp_sdk.py"))
"""The command of an agent that is built with the protocol's own SDK, which refuses what its schema does not allow."""


@dataclass(frozen=True)
class Held:
    """A session that has ended."""

    output: str
    result: dict[str, Any]
    code: int

    @property
    def lines(self) -> list[str]:
        return self.output.splitlines()


def hold(folder: Path, behaviour: str, prompt: str = "go", **options: Any) -> Held:  # noqa: ANN401
    """Hold a session with a plain agent; `options` are those of the client."""
    return hold_with([*PLAIN, behaviour], folder, prompt, **options)


def hold_with(command: Sequence[str], folder: Path, prompt: str, **options: Any) -> Held:  # noqa: ANN401
    """Hold a session with any agent."""
    given = {"version": "1", "patience": 1.0, "permissions": {"*": "reject"}, **options}
    result = folder / "result.json"
    result.unlink(missing_ok=True)
    client = [sys.executable, "-I", "-S", "-c", acp._CODE, str(Path(acp.__file__).parents[1])]
    ended = subprocess.run(
        [*client, *command],
        input=prompt.encode(),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=folder,
        env={"PATH": "/usr/bin:/bin", "AGENTCRON_RESULT": str(result), VARIABLE: json.dumps(given)},
        timeout=30,
        check=False,
    )
    return Held(ended.stdout.decode(errors="replace"), json.loads(result.read_text()), ended.returncode)
