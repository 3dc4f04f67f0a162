"""What a supervisor is given to run, without a daemon."""

from pathlib import Path
from typing import Any

from daemon.agents.process.supervisor import status


def spec_in(folder: Path) -> dict[str, Any]:
    return {
        "version": status.VERSION,
        "run_dir": str(folder),
        "argv": ["true"],
        "cwd": "/",
        "env": {"AGENTCRON_IDEMPOTENCY_KEY": "x"},
        "stdin": "/dev/null",
        "umask": 0o077,
        "timeout": 60,
        "idle_timeout": None,
        "kill_grace": 1,
        "max_output": 1000,
        "result_format": "none",
        "ends_its_own": False,
        "hidden": [],
    }
