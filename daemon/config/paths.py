"""Locate the state directory and the control socket, with their defaults."""

import os
from collections.abc import Mapping
from pathlib import Path

from daemon.config.loading import SYSTEM_FILE
from daemon.config.schema import Config

SOCKET = "control.sock"


def state_dir(config: Config, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the state directory: from the config, `$STATE_DIRECTORY`, or the default for the config's location."""
    if config.daemon.state_dir is not None:
        return config.resolve(config.daemon.state_dir)
    if environment.get("STATE_DIRECTORY"):
        return Path(environment["STATE_DIRECTORY"].split(":")[0])
    if config.file == SYSTEM_FILE:
        return Path("/var/lib/agentcron")
    home = Path(environment.get("HOME", "/"))
    return Path(environment.get("XDG_STATE_HOME") or home / ".local/state") / "agentcron"


def keep_paths(config: Config) -> None:
    """Keep state directory and socket where they are, although $HOME, which their defaults depend on, will change."""
    if config.daemon.state_dir is None:
        os.environ["STATE_DIRECTORY"] = str(state_dir(config))
    if config.control.socket is None:
        os.environ["RUNTIME_DIRECTORY"] = str(socket_path(config).parent)


def socket_path(config: Config, environment: Mapping[str, str] = os.environ) -> Path:
    """Return the control socket: from the config, the default for its location, or one in the state directory."""
    if config.control.socket is not None:
        return config.resolve(config.control.socket)
    if environment.get("RUNTIME_DIRECTORY"):
        return Path(environment["RUNTIME_DIRECTORY"].split(":")[0]) / SOCKET
    if config.file == SYSTEM_FILE:
        return Path("/run/agentcron") / SOCKET
    if environment.get("XDG_RUNTIME_DIR"):
        return Path(environment["XDG_RUNTIME_DIR"]) / "agentcron" / SOCKET
    return state_dir(config, environment) / SOCKET
