"""Settings that are read and checked, but whose behaviour comes with a later version."""

from collections.abc import Iterator

from daemon.config.schema import Config


def inactive_settings(config: Config) -> list[str]:
    """Name the settings of a config that have no effect yet."""
    return [*_sections(config), *_agents(config)]


def _sections(config: Config) -> Iterator[str]:
    if config.notify:
        yield "[notify]"
    if config.control.public_url is not None:
        yield "control.public_url"


def _agents(config: Config) -> Iterator[str]:
    for name, agent in config.agents.items():
        if agent.type != "command":
            yield f'agents.{name}.type = "{agent.type}"'
