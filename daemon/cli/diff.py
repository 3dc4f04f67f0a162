"""What `check --diff` shows: what a reload would change."""

from typing import Any

from daemon.cli.offline import has_database, reading
from daemon.config.schema import Config
from daemon.schedules.declared import Declared, declared_changes


def changes_by_reload(config: Config) -> list[dict[str, Any]]:
    """Return what a reload would do to the schedules in the database; without a database all would be created.

    Raise ConfigError if a declared name is taken by a created schedule.
    """
    if has_database(config):
        with reading(config) as connection:
            declared = declared_changes(connection, config)
    else:
        names = ((agent, name) for agent, settings in config.agents.items() for name in settings.schedules)
        declared = [Declared(f"{agent}/{name}", "created") for agent, name in names]
    return [one.view() for one in declared]
