"""Reloads the config file: an invalid file changes nothing, a valid one is applied as a whole."""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import structlog

from daemon.agents.factory import Agents
from daemon.api.identity import Tokens, read_tokens
from daemon.clock.alarm import Clock
from daemon.config.diff import changed_settings, read_at_start
from daemon.config.exposure import find_exposures
from daemon.config.live import LiveConfig
from daemon.config.loading import digest_of, load_config, read_text
from daemon.config.schema import Config
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.lifecycle.status_line import StatusLine
from daemon.problems import Problems
from daemon.recovery.last_config import keep_config
from daemon.schedules.blocked import Blocked
from daemon.schedules.declared import DeclaredChange, Reloaded, changed_words, sync_declared
from daemon.schedules.surprises import find_surprises
from daemon.store.home import Home
from daemon.systemd import notify
from daemon.text import plural
from daemon.units import format_instant, utc_now

_LOG = structlog.get_logger()
_PART = "config"
_MOST_LOGGED = 100  # changed settings, or probable mistakes, that are named; all are counted


class Reloader:
    """Reloads the config of a running daemon, one reload at a time."""

    def __init__(
        self,
        home: Home,
        live: LiveConfig,
        clock: Clock,
        agents: Agents,
        tokens: Tokens,
        status: StatusLine,
        review: Callable[[], Awaitable[list[Blocked]]],
    ) -> None:
        """`review` finds the schedules that can start nothing under the config in force, and reports them."""
        self._home = home
        self._live = live
        self._clock = clock
        self._agents = agents
        self._tokens = tokens
        self._status = status
        self._review = review
        self._health = status.health
        self._started_with = {**read_at_start(live.config), "daemon.state_dir": str(home.state_dir)}
        self._reloading = asyncio.Lock()
        self._is_queued = False

    async def on_signal(self) -> None:
        """Reload.

        Signals that arrive during a reload are merged into one further reload, which reads the file as it is then.
        """
        if self._is_queued:
            return
        self._is_queued = True
        with contextlib.suppress(ConfigError, StoreUnavailableError):  # logged where they were raised
            await self.reload()

    async def reload(self) -> Reloaded:
        """Read the file again and apply it; return what that changed, and warnings.

        Raise ConfigError or StoreUnavailableError; then nothing was changed.
        """
        async with self._reloading:
            self._is_queued = False
            notify("RELOADING=1", f"MONOTONIC_USEC={time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000}")
            try:
                return await self._reload()
            except ConfigError as error:
                self._status.reloaded = ""
                self._health.reload = plural(len(error.problems), "error")
                for problem in error.problems:
                    _LOG.error("[config] Not reloaded", problem=problem)
                raise
            except StoreUnavailableError as error:
                self._status.reloaded = ""
                self._health.reload = "the database could not be written"
                _LOG.error("[config] Not reloaded; reload again when the database can be written", problem=str(error))
                raise
            finally:
                notify("READY=1")
                notify(await self._status.text())

    async def forget_if_undone(self) -> None:
        """Forget that a reload failed if another one would change nothing: the file says again what is in force."""
        if self._health.reload and not self._reloading.locked() and await asyncio.to_thread(self._is_in_force):
            self._health.reload = ""

    def _is_in_force(self) -> bool:
        config = self._live.config
        try:
            is_same = digest_of(read_text(config.file)) == config.digest
            return is_same and not self._tokens.changed_in(read_tokens(config))
        except ConfigError:
            return False

    async def _reload(self) -> Reloaded:
        config, tokens = await asyncio.to_thread(_load, self._live.config.file)
        await self._clock.decide()  # due times up to now are decided under the old config
        declared, failures = await self._home.database.write(lambda tx: sync_declared(tx, config, utc_now()))
        self._health.reload = ""
        at_restart = self._needing_restart(config)
        settings = self._changed_settings(config, tokens)
        _log_settings(settings, at_restart)
        self._tokens.replace(tokens)
        self._live.replace(config)  # no await since the commit, so tasks woken by it already see this config
        self._agents.warn_of_unenforced_limits(config)
        log_declared(declared)
        report_unapplied(self._home.problems, failures)
        _LOG.info(
            "[config] Reloaded",
            file=str(config.file),
            changed_settings=len(settings),
            changed_schedules=len(declared),
        )
        words = changed_words(len(settings), len(declared))
        self._status.reloaded = f"config reloaded {format_instant(utc_now())}, {words}"
        if not at_restart:  # else it is not known whether a daemon starts by it
            await asyncio.to_thread(keep_config, config, self._home.state_dir, utc_now())
        await warn_of_exposures(config)
        warnings = [f"{setting}: takes effect at the next start" for setting in at_restart]
        warnings += await warn_of_surprises(config)
        return Reloaded(declared, settings, warnings + [str(one) for one in await self._review()])

    def _changed_settings(self, config: Config, tokens: dict[str, bytes]) -> list[str]:
        """Name the settings that differ from those in force, and tokens whose files have other content by now."""
        again = [f"control.tokens.{name}" for name in self._tokens.changed_in(tokens)]
        return changed_settings(self._live.config, config) + again

    def _needing_restart(self, config: Config) -> list[str]:
        """Name the changed settings that take effect only after a restart."""
        current = read_at_start(config)
        return [name for name, value in self._started_with.items() if current[name] != value]


def _log_settings(changed: list[str], at_restart: list[str]) -> None:
    for setting in at_restart:
        _LOG.warning("[config] Setting takes effect at the next start", setting=setting)
    for setting in changed[:_MOST_LOGGED]:
        _LOG.info("[config] Setting changed", setting=setting)


def _load(file: Path) -> tuple[Config, dict[str, bytes]]:
    """Read a config and the tokens that it names; raise ConfigError if either is invalid."""
    config = load_config(file)
    return config, read_tokens(config)


async def warn_of_exposures(config: Config) -> None:
    """Log what others can read of the secrets in a config, and whether they can change it."""
    for exposure in await asyncio.to_thread(lambda: list(find_exposures(config, os.geteuid()))):
        _LOG.warning("[config] Open to others", subject=exposure.about, problem=exposure.what, fix=exposure.fix)


async def warn_of_surprises(config: Config) -> list[str]:
    """Log the settings that probably do not do what they were set for; return them as sentences."""
    found = await asyncio.to_thread(lambda: list(find_surprises(config)))
    for surprise in found[:_MOST_LOGGED]:
        _LOG.warning("[config] Probably a mistake", setting=surprise.about, problem=surprise.what, fix=surprise.fix)
    rest = [f"... and {len(found) - _MOST_LOGGED} more, see `agentcron check`"] if len(found) > _MOST_LOGGED else []
    return [str(surprise) for surprise in found[:_MOST_LOGGED]] + rest


def log_declared(declared: list[DeclaredChange]) -> None:
    """Log each change of a schedule from the config file."""
    for change in declared:
        keys = {"changed": ", ".join(sorted(change.changes))} if change.changes else {}
        _LOG.info(f"[config] Schedule {change.action}", schedule=change.address, **keys)


def report_unapplied(problems: Problems, failures: Mapping[str, str]) -> None:
    """Log and note which schedules of the config file could not be applied; those of an earlier reload are solved."""
    problems.keep_only(_PART, failures)
    for address, reason in failures.items():
        _LOG.error("[config] Schedule not applied; repair its row, then reload", schedule=address, reason=reason)
        problems.report(_PART, reason, subject=address, agent=address.partition("/")[0])
