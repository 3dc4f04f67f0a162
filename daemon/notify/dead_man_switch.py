"""Dead-man's switches: services that raise an alarm when the daemon's pings stop or report a failure."""

import asyncio
import contextlib
import time

import aiohttp
import structlog
from yarl import URL

from daemon.config.live import LiveConfig
from daemon.config.schema import Notify
from daemon.errors import StoreDamagedError, StoreUnavailableError
from daemon.http_client import HttpCall
from daemon.notify.post import NotSentError, post
from daemon.problems import described, standing_loop
from daemon.store.changes import Changes
from daemon.store.home import Home
from daemon.store.notifications import failing_schedules

_LOG = structlog.get_logger()
_PING_EVERY = 60.0  # seconds
_PART = "dead-man's switches"
_REPORTED = 5  # problems that the log names


class DeadManSwitches:
    """Pings each target with a `ping` URL while its schedules are healthy, and `URL/fail` while they are not."""

    def __init__(self, home: Home, live: LiveConfig, session: aiohttp.ClientSession) -> None:
        self._home = home
        self._live = live
        self._session = session
        self._changed = asyncio.Event()
        self._healthy: dict[str, bool] = {}
        self._pinged: dict[str, float] = {}
        home.database.on_commit(self._committed)
        live.on_change(self._changed.set)

    def _committed(self, changes: Changes) -> None:
        if changes.labels("health"):
            self._changed.set()

    async def serve(self) -> None:
        """Ping every minute, and at once when the health of a schedule changes, until the task is cancelled."""
        await standing_loop(_PART, self._home.problems, self._ping_all, lambda _: self._rest())

    async def _ping_all(self) -> None:
        self._changed.clear()
        pinged = {name for name, settings in self._live.config.notify.items() if settings.ping is not None}
        self._home.problems.keep_only(_PART, pinged)
        async with asyncio.TaskGroup() as pings:
            for name, settings in self._live.config.notify.items():
                if settings.ping is not None:
                    pings.create_task(self._ping_safely(name, settings, settings.ping))

    async def _rest(self) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_PING_EVERY):
                await self._changed.wait()

    async def _ping_safely(self, name: str, settings: Notify, url: str) -> None:
        try:
            await self._ping(name, settings, url)
        except StoreDamagedError:
            raise
        except NotSentError as error:
            self._home.problems.report(_PART, error, subject=name, retry_in=_PING_EVERY)
            _LOG.warning("[daemon] Dead-man's switch not reached", target=name, reason=str(error))
        except Exception as error:  # noqa: BLE001 - a dead-man's switch must not stop the daemon
            self._home.problems.report(_PART, described(error), subject=name, retry_in=_PING_EVERY)
            _LOG.exception("[daemon] Dead-man's switch not reached: unexpected error", target=name)

    async def _ping(self, name: str, settings: Notify, url: str) -> None:
        problems = await self._problems(settings)
        healthy, now = not problems, time.monotonic()
        if self._healthy.get(name) is not healthy:
            self._healthy[name] = healthy
            _LOG.info("[daemon] Dead-man's switch", target=name, healthy=healthy, problems=problems[:_REPORTED])
        elif now - self._pinged.get(name, -_PING_EVERY) < _PING_EVERY:
            return
        self._pinged[name] = now
        address = url if healthy else str(URL(url) / "fail")
        await post(self._session, HttpCall("ping", address))
        self._home.problems.resolve(_PART, name)

    async def _problems(self, settings: Notify) -> list[str]:
        """Name the failing schedules that a switch monitors; an unavailable database is the only problem."""
        try:
            await self._home.database.write(lambda tx: tx.execute("SELECT 1").fetchone())
            failing = await self._home.database.read(failing_schedules)
        except StoreUnavailableError as error:
            return [str(error)]
        return [address for agent, address in failing if {"*", agent} & set(settings.agents)]
