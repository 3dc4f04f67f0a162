"""Find which settings differ between two configs, by key path only, since some values are secret."""

from collections.abc import Callable, Iterator
from typing import Any

from pydantic import BaseModel

from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config

_AT_START: dict[str, Callable[[Config], object]] = {
    "control.group": lambda config: config.control.group,
    "control.listen": lambda config: config.control.listen,
    "control.socket": lambda config: str(socket_path(config)),
    "daemon.state_dir": lambda config: str(state_dir(config)),
    "log": lambda config: config.log,
}


def changed_settings(before: Config, after: Config) -> list[str]:
    """Return the key paths that differ, except those of schedules, which are compared with the database."""
    return list(_differences("", dict(before), dict(after)))


def read_at_start(config: Config) -> dict[str, object]:
    """Return the settings that take effect only at the start of a daemon, by key path."""
    return {name: value_in(config) for name, value_in in _AT_START.items()}


def is_read_at_start(setting: str) -> bool:
    """Return whether the setting of a key path takes effect only at the start of a daemon."""
    return setting in _AT_START or setting.partition(".")[0] in _AT_START


def _differences(path: str, before: dict[str, Any], after: dict[str, Any]) -> Iterator[str]:
    for key in [*before, *(key for key in after if key not in before)]:
        ours, theirs = before.get(key), after.get(key)
        if key == "schedules" or ours == theirs:
            continue
        if isinstance(ours, BaseModel) and isinstance(theirs, BaseModel):
            yield from _differences(f"{path}{key}.", dict(ours), dict(theirs))
        elif isinstance(ours, dict) and isinstance(theirs, dict):
            yield from _differences(f"{path}{key}.", ours, theirs)
        else:
            yield f"{path}{key}"
