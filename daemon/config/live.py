"""The config in force, which a reload replaces in one place."""

from collections.abc import Callable

from daemon.config.effective import audience_of, budgets_of, skipping_agents
from daemon.config.schema import Config


class LiveConfig:
    """The config that the daemon runs by now, with what is derived from it."""

    def __init__(self, config: Config) -> None:
        self._listeners: list[Callable[[], None]] = []
        self._set(config)

    def _set(self, config: Config) -> None:
        self.config = config
        self.audience = audience_of(config)
        """Who is notified of what."""
        self.budgets = budgets_of(config)
        """What each agent, and all of them together, may spend in a calendar day."""
        self.skipping = skipping_agents(config)
        """The agents whose due times are skipped while a limit is used up, with their pools."""

    def replace(self, config: Config) -> None:
        """Run by another config from now on, and wake whoever waits for that."""
        self._set(config)
        for changed in self._listeners:
            changed()

    def on_change(self, changed: Callable[[], None]) -> None:
        """Call a function, which must not block or raise, each time after the config was replaced."""
        self._listeners.append(changed)
