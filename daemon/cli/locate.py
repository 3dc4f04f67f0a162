"""Find the config file and the running daemon that uses it."""

import os
from pathlib import Path
from typing import Any

from daemon.cli.output import say
from daemon.cli.privileges import act_as_owner
from daemon.config.loading import find_config, load_config
from daemon.config.partial import load_location
from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config
from daemon.errors import ConfigError
from daemon.store.lock import socket_in_use


def read_config(option: Path | None) -> Config:
    """Return the config named by the option, or the one in a default location."""
    return load_config(find_config(option))


def find_daemon(option: Path | None, *, warn: bool = True) -> Config:
    """Return the config, with the state directory that the daemon using it has until its restart.

    If the file has errors but a daemon still runs with an earlier version of it, return only what is needed to reach
    that daemon: state directory, socket and timezone, but no agents. Raise ConfigError if there is no such daemon.

    A command of root acts as the user of that state directory from here on.
    """
    file = find_config(option)
    try:
        config = load_config(file)
    except ConfigError:
        found = _find_daemon_using(file)
        if found is None:
            raise
        warning = "has errors, and the daemon still uses the version before them; see `agentcron check`"
    else:
        act_as_owner(state_dir(config))
        found = with_running_state_dir(config)
        if found is None:
            return config
        warning = (
            f"names the state directory {state_dir(config)}, but the running daemon uses {state_dir(found)}; "
            "restart the daemon to apply the change"
        )
    act_as_owner(state_dir(found))
    if warn:
        say(f"warning: {file} {warning}", error=True)
    return found


def with_running_state_dir(config: Config) -> Config | None:
    """Return the config with the state directory of the running daemon that uses it, None if that is the same."""
    from daemon.cli.client import daemon_at

    if "AGENTCRON_DAEMON__STATE_DIR" in os.environ:  # set for this command
        return None
    configured = socket_path(config)
    in_use = socket_in_use(state_dir(config))
    if in_use is not None and in_use[0] == configured:
        return None
    daemon = daemon_at(config, configured)
    if daemon is None or not uses_config(daemon, config.file):
        return None
    if Path(daemon["state_dir"]).resolve() == state_dir(config).resolve():
        return None
    return _with_daemon_settings(config, state_dir=Path(daemon["state_dir"]))


def uses_config(daemon: dict[str, Any], file: Path) -> bool:
    """Tell whether a daemon reports that it uses a config file."""
    return Path(daemon["config_file"]).resolve() == file.resolve()


def _find_daemon_using(file: Path) -> Config | None:
    """Return what is needed to reach the daemon that uses a config file with errors; None if no daemon does."""
    from daemon.cli.client import daemon_at

    location = load_location(file)
    if location is not None:
        act_as_owner(state_dir(location))
    daemon = daemon_at(location) if location is not None else None
    if location is None or daemon is None or not uses_config(daemon, file):
        return None
    return _with_daemon_settings(location, state_dir=Path(daemon["state_dir"]), timezone=daemon["timezone"])


def _with_daemon_settings(config: Config, **settings: object) -> Config:
    return config.model_copy(update={"daemon": config.daemon.model_copy(update=settings)})
