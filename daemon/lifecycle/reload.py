"""Reading the config file again: a bad one changes nothing, a good one is applied as a whole."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

import structlog

from daemon.api.identity import Tokens
from daemon.config.diff import changed_settings
from daemon.config.loading import load_config
from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.schedules.declared import Declared, sync_declared
from daemon.store.database import Database
from daemon.systemd import notify
from daemon.units import utc_now

_LOG = structlog.get_logger()


class Reloader:
    """Reloads the config of a running daemon, one at a time."""

    def __init__(
        self,
        config: Config,
        folder: Path,
        database: Database,
        settle: Callable[[], Awaitable[object]],
        use: Callable[[Config, Tokens], None],
        status: Callable[[], Awaitable[str]],
    ) -> None:
        """Start from a config and the state directory in use.

        `settle` decides what is due under the config as it was, `use` goes by the new one, and `status` is what the
        service manager hears afterwards.
        """
        self._config = config
        self._lasting = {**_lasting(config), "daemon.state_dir": str(folder)}  # until the next start
        self._database = database
        self._settle = settle
        self._use = use
        self._status = status
        self._reloading = asyncio.Lock()
        self._waits = False
        self.refusal = ""
        """Why the file was not used when it was read last, in words for everybody: what is in it is not."""

    async def on_signal(self) -> None:
        """Reload.

        Of those who ask while a reload is under way, one waits and speaks for all: it reads the file as it is then.
        """
        if self._waits:
            return
        self._waits = True
        with contextlib.suppress(ConfigError, StoreUnavailableError):  # the log told of it
            await self.reload()

    async def reload(self) -> tuple[list[Declared], list[str]]:
        """Read the file again and apply it; return the changed schedules, and the settings that need a restart.

        Raise ConfigError or StoreUnavailableError if nothing was changed.
        """
        async with self._reloading:
            self._waits = False
            notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            try:
                config, tokens = await asyncio.to_thread(_load, self._config.file)
                await self._settle()
                declared = await self._database.write(lambda tx: sync_declared(tx, config, utc_now()))
            except ConfigError as error:
                self.refusal = f"mistakes in it: {len(error.problems)}"
                for problem in error.problems:
                    _LOG.error("[config] Not reloaded", problem=problem)
                raise
            except StoreUnavailableError as error:
                self.refusal = "the database could not be written"
                _LOG.error("[config] Not reloaded; reload again when it can be written", problem=str(error))
                raise
            else:
                self.refusal = ""
                late = self._needing_restart(config)
                self._tell(config, late)
                self._config = config
                self._use(config, tokens)
                log_declared(declared)
                _LOG.info("[config] Reloaded", file=str(config.file), changed_schedules=len(declared))
                return declared, late
            finally:
                notify("READY=1")
                notify(await self._status())

    def _tell(self, config: Config, late: list[str]) -> None:
        for setting in late:
            _LOG.warning("[config] Takes effect at the next start", setting=setting)
        for setting in changed_settings(self._config, config):
            _LOG.info("[config] Setting changed", setting=setting)

    def _needing_restart(self, config: Config) -> list[str]:
        """Name the changed settings that only a restart brings into effect."""
        wanted = _lasting(config)
        return [name for name, value in self._lasting.items() if wanted[name] != value]


def _lasting(config: Config) -> dict[str, object]:
    return {
        "control.group": config.control.group,
        "control.listen": config.control.listen,
        "control.socket": str(socket_path(config)),
        "daemon.state_dir": str(state_dir(config)),
        "log": config.log,
    }


def _load(file: Path) -> tuple[Config, Tokens]:
    """Read a config and the tokens that it names; raise ConfigError if either cannot be used."""
    config = load_config(file)
    return config, Tokens(config)


def log_declared(declared: list[Declared]) -> None:
    """Name each schedule of the file that was changed."""
    for change in declared:
        keys = {"changed": ", ".join(sorted(change.changes))} if change.changes else {}
        _LOG.info(f"[config] Schedule {change.action}", schedule=change.address, **keys)
