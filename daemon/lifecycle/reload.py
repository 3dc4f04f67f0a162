"""Reloads the config file: a bad one changes nothing, a good one is applied as a whole."""

import asyncio
import contextlib
import time
from pathlib import Path

import structlog

from daemon.agents.factory import Agents
from daemon.api.identity import Tokens, read_tokens
from daemon.clock.alarm import Clock
from daemon.config.diff import changed_settings
from daemon.config.live import LiveConfig
from daemon.config.loading import load_config
from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.lifecycle.status_line import StatusLine
from daemon.schedules.declared import Declared, sync_declared
from daemon.store.home import Home
from daemon.systemd import notify
from daemon.units import utc_now

_LOG = structlog.get_logger()


class Reloader:
    """Reloads the config of a running daemon, one reload at a time."""

    def __init__(
        self, home: Home, live: LiveConfig, clock: Clock, agents: Agents, tokens: Tokens, status: StatusLine
    ) -> None:
        self._home = home
        self._live = live
        self._clock = clock
        self._agents = agents
        self._tokens = tokens
        self._status = status
        self._health = status.health
        self._started_with = {**_read_at_start(live.config), "daemon.state_dir": str(home.state_dir)}
        self._reloading = asyncio.Lock()
        self._waits = False

    async def on_signal(self) -> None:
        """Reload.

        Of several signals while a reload is under way, one waits for all: it reads the file as it is then.
        """
        if self._waits:
            return
        self._waits = True
        with contextlib.suppress(ConfigError, StoreUnavailableError):  # logged where they were raised
            await self.reload()

    async def reload(self) -> tuple[list[Declared], list[str]]:
        """Read the file again and apply it; return the changed schedules, and the settings that need a restart.

        Raise ConfigError or StoreUnavailableError if nothing was changed.
        """
        async with self._reloading:
            self._waits = False
            notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            try:
                return await self._reload()
            except ConfigError as error:
                self._health.reload = f"mistakes in it: {len(error.problems)}"
                for problem in error.problems:
                    _LOG.error("[config] Not reloaded", problem=problem)
                raise
            except StoreUnavailableError as error:
                self._health.reload = "the database could not be written"
                _LOG.error("[config] Not reloaded; reload again when it can be written", problem=str(error))
                raise
            finally:
                notify("READY=1")
                notify(await self._status.text())

    async def _reload(self) -> tuple[list[Declared], list[str]]:
        config, tokens = await asyncio.to_thread(_load, self._live.config.file)
        await self._clock.decide()  # what has come due is decided under the config as it was
        declared = await self._home.database.write(lambda tx: sync_declared(tx, config, utc_now()))
        self._health.reload = ""
        late = self._needing_restart(config)
        self._log_settings(config, late)
        self._tokens.replace(tokens)
        self._live.replace(config)  # nothing is awaited since the commit: who was woken by it finds this config
        self._agents.warn_of_unenforced_limits(config)
        log_declared(declared)
        _LOG.info("[config] Reloaded", file=str(config.file), changed_schedules=len(declared))
        return declared, late

    def _log_settings(self, config: Config, late: list[str]) -> None:
        for setting in late:
            _LOG.warning("[config] Takes effect at the next start", setting=setting)
        for setting in changed_settings(self._live.config, config):
            _LOG.info("[config] Setting changed", setting=setting)

    def _needing_restart(self, config: Config) -> list[str]:
        """Name the changed settings that only a restart brings into effect."""
        wanted = _read_at_start(config)
        return [name for name, value in self._started_with.items() if wanted[name] != value]


def _read_at_start(config: Config) -> dict[str, object]:
    """Return the settings that hold until the next start."""
    return {
        "control.group": config.control.group,
        "control.listen": config.control.listen,
        "control.socket": str(socket_path(config)),
        "daemon.state_dir": str(state_dir(config)),
        "log": config.log,
    }


def _load(file: Path) -> tuple[Config, dict[str, bytes]]:
    """Read a config and the tokens that it names; raise ConfigError if either cannot be used."""
    config = load_config(file)
    return config, read_tokens(config)


def log_declared(declared: list[Declared]) -> None:
    """Name each schedule of the file that was changed."""
    for change in declared:
        keys = {"changed": ", ".join(sorted(change.changes))} if change.changes else {}
        _LOG.info(f"[config] Schedule {change.action}", schedule=change.address, **keys)
