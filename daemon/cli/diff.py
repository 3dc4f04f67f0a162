"""`agentcron check --diff`: the schedules and settings that a reload would change."""

import contextlib
from dataclasses import dataclass
from typing import Any

from daemon.access import Rights
from daemon.cli.offline import has_database, may_read, reading
from daemon.config.diff import changed_settings, is_read_at_start
from daemon.config.paths import state_dir
from daemon.config.schema import Config
from daemon.errors import RefusedError, StoreError
from daemon.recovery.last_config import find_last_config
from daemon.schedules.blocked import claims_of, find_blocked
from daemon.schedules.declared import DeclaredChange, declared_changes


def changes_by_reload(config: Config) -> list[dict[str, Any]]:
    """Return the changes a reload would make to the schedules in the database; without one, all would be created.

    Raise ConfigError if a schedule in the config has the name of one created through the API.
    """
    if has_database(config):
        with reading(config) as connection:
            declared = declared_changes(connection, config)
    else:
        names = ((agent, name) for agent, settings in config.agents.items() for name in settings.schedules)
        declared = [DeclaredChange(f"{agent}/{name}", "created") for agent, name in names]
    return [one.view() for one in declared]


def blocked_by_reload(config: Config) -> list[str]:
    """Return the schedules that could start nothing after a reload, each with the reason; asks the name services."""
    if not has_database(config):
        return []
    with reading(config) as connection:
        claims, rights = claims_of(connection), Rights(config)
        return [
            str(one)
            for one in find_blocked(connection, config.agents, {claim: rights.may_start(claim) for claim in claims})
        ]


@dataclass(frozen=True)
class SettingsDiff:
    """The settings that a reload would change: key paths only, since some values are secret."""

    changed: list[str]
    at_start: list[str]
    """Those that take effect at the next start."""


def settings_by_reload(config: Config) -> SettingsDiff | None:
    """Return which settings differ from the config that was in force last, None if there is no copy of it."""
    last = find_last_config(config.file, state_dir(config))
    if last is None:
        return None
    changed = changed_settings(last.config, config)
    return SettingsDiff(changed, [setting for setting in changed if is_read_at_start(setting)])


def refuse_taken_names(config: Config) -> None:
    """Raise ConfigError if a declared schedule has the name of a created one, as far as we may read the database."""
    if may_read(config):
        with contextlib.suppress(StoreError, RefusedError):
            changes_by_reload(config)
