"""Name the last config that worked, if the config file keeps the daemon from starting."""

import contextlib
from pathlib import Path

from daemon.errors import AgentcronError


def how_to_start(option: Path | None) -> str | None:
    """Return how to start by the last config that worked; None if there is none, or it says what the file says.

    Root becomes the daemon's user for good, since an agent may have put anything in the place of the copy.
    """
    from daemon.cli.privileges import become_owner
    from daemon.config.loading import find_config
    from daemon.config.partial import load_location
    from daemon.config.paths import state_dir
    from daemon.recovery.last_config import find_last_config

    with contextlib.suppress(AgentcronError):
        file = find_config(option)
        location = load_location(file)
        if location is not None:
            become_owner(state_dir(location))
            last = find_last_config(file, state_dir(location))
            return None if last is None or last.is_current else last.how_to_start(file)
    return None
