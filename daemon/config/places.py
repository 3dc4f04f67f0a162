"""Where the state lives when the config does not say."""

import os
from collections.abc import Mapping
from pathlib import Path

from daemon.config.loading import SYSTEM_FILE
from daemon.config.schema import Config


def state_dir(config: Config, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the state directory: the config's, `$STATE_DIRECTORY`, or the default for the config's place."""
    if config.daemon.state_dir is not None:
        return config.resolve(config.daemon.state_dir)
    if environment.get("STATE_DIRECTORY"):
        return Path(environment["STATE_DIRECTORY"].split(":")[0])
    if config.file == SYSTEM_FILE:
        return Path("/var/lib/agentcron")
    home = Path(environment.get("HOME", "/"))
    return Path(environment.get("XDG_STATE_HOME") or home / ".local/state") / "agentcron"
