"""Probes of pools: commands that tell whether an account is signed in again, run while a login failure closes its pool.

A pool is probed after each `probe_every`, and at once by a daemon that finds it closed when it starts.
"""

import asyncio
import contextlib
import math
import time
from datetime import datetime
from functools import partial

import structlog

from daemon.agents.process.spec import program_of
from daemon.config.live import LiveConfig
from daemon.notify.outbox import Outbox
from daemon.notify.post import NotSentError, run_command
from daemon.problems import standing_loop
from daemon.rules.pools import Cause
from daemon.runs.pools import PROBED, UNPROBED, open_probed
from daemon.store.changes import Changes
from daemon.store.home import Home
from daemon.store.pools import closures

_LOG = structlog.get_logger()


class Probes:
    """Probes closed pools."""

    def __init__(self, home: Home, live: LiveConfig, outbox: Outbox) -> None:
        self._home = home
        self._live = live
        self._outbox = outbox
        self._wake = asyncio.Event()
        self._begun: dict[str, float] = {}
        """For each pool that a login failure keeps closed, the monotonic time since which it waits for its probe."""
        home.database.on_commit(self._committed)
        live.on_change(self._wake.set)

    def _committed(self, changes: Changes) -> None:
        if changes.labels("pool"):
            self._wake.set()

    async def serve(self) -> None:
        """Probe until the task is cancelled."""
        await standing_loop("pools", self._home.problems, self._work, self._rest)

    async def _rest(self, pause: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _work(self) -> float | None:
        """Probe the pools whose turn it is; return the seconds until the next, None if none is closed."""
        self._wake.clear()
        known = await self._home.database.read(closures)
        closed = {closure.pool: closure.since for closure in known if closure.cause is Cause.LOGIN}
        self._begun = {pool: self._begun.get(pool, self._first(since)) for pool, since in closed.items()}
        async with asyncio.TaskGroup() as probing:
            for pool in [pool for pool in self._begun if self._pause(pool) <= 0]:
                probing.create_task(self._probe(pool))
        return min((max(0.0, self._pause(pool)) for pool in self._begun), default=None)

    def _first(self, since: datetime) -> float:
        """Return since when a pool waits: its login has just failed, unless an earlier daemon saw that."""
        return time.monotonic() if since >= self._home.started else -math.inf

    def _pause(self, pool: str) -> float:
        """Return the seconds until a pool is probed, or opened because it has no probe any more."""
        settings = self._live.config.pools.get(pool)
        if settings is None or settings.probe is None:
            return 0.0
        return self._begun[pool] + settings.probe_every.total_seconds() - time.monotonic()

    async def _probe(self, pool: str) -> None:
        settings = self._live.config.pools.get(pool)
        if settings is None or settings.probe is None:
            await self._open(pool, UNPROBED)
        elif await self._passes(pool, settings.probe):
            await self._open(pool, PROBED)
        else:
            self._begun[pool] = time.monotonic()

    async def _passes(self, pool: str, probe: list[str]) -> bool:
        try:
            await run_command([program_of(probe, self._live.config), *probe[1:]], b"")
        except NotSentError as error:
            _LOG.info("[pool] Probe failed; the pool stays closed", pool=pool, reason=str(error))
            return False
        return True

    async def _open(self, pool: str, reason: str) -> None:
        opening = partial(open_probed, pool=pool, now=self._home.now(), reason=reason, outbox=self._outbox)
        await self._home.database.write_patiently(opening)
        self._begun.pop(pool, None)
