"""What the routes act upon: the database, the clock, the queue, rights and metrics of the running daemon."""

import asyncio
import contextlib
import time
from collections.abc import Awaitable, Callable, Coroutine
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from daemon.access import Action, Rights
from daemon.api.cache import ResponseCache
from daemon.clock.alarm import Clock
from daemon.config.schema import Config
from daemon.maintenance.cleanup import Cleanup
from daemon.maintenance.retention import Retention
from daemon.metrics import Metrics
from daemon.runs.hook_calls import HookCalls
from daemon.runs.queue import Queue
from daemon.schedules.declared import Declared
from daemon.store.database import Database
from daemon.store.schedules import next_wake
from daemon.units import utc_now

_REMEMBERED = 3.0  # seconds for which a right that took a look-up is not looked up again


@dataclass
class ApiContext:
    """The running daemon as the routes see it."""

    database: Database
    clock: Clock
    queue: Queue
    metrics: Metrics
    cleanup: Cleanup
    retention: Retention
    hook_calls: HookCalls
    start: Callable[[Coroutine[Any, Any, Any]], asyncio.Task[Any]]
    """Begin long work that goes on without the one who asked, and is cancelled when the daemon stops."""
    reload: Callable[[], Awaitable[tuple[list[Declared], list[str]]]]
    """Read the config file again: what changed, and what needs a restart; raises ConfigError for a bad one."""
    amiss: Callable[[], str]
    """Say what keeps the daemon from doing what it should."""
    state_dir: Path
    instance: str
    config: Config
    rights: Rights
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the daemon stops: answers without an end are broken off."""
    cache: ResponseCache = field(default_factory=ResponseCache)
    _known: dict[tuple[str, str, str], tuple[float, bool]] = field(default_factory=dict)

    def use(self, config: Config) -> None:
        """Go by another config from now on."""
        self.config = config
        self.rights = Rights(config)
        self.cache = ResponseCache()
        self._known = {}

    async def pause(self, seconds: float) -> None:
        """Wait a little; raise ConnectionResetError when the daemon stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()
                raise ConnectionResetError

    async def is_admin(self, principal: str) -> bool:
        """Tell whether a principal has every right."""
        return await self._remembered((principal, "", ""), lambda rights: rights.is_admin(principal))

    async def may(self, principal: str, action: Action, agent: str) -> bool:
        """Tell whether a principal may do something with an agent."""
        return await self._remembered((principal, action, agent), lambda rights: rights.may(principal, action, agent))

    async def _remembered(self, key: tuple[str, str, str], look_up: Callable[[Rights], bool]) -> bool:
        at_once = self.rights.may_at_once(key[0])
        if at_once is not None:
            return at_once
        memory = self._known  # another one takes its place when the config changes
        known = memory.get(key)
        if known is None or time.monotonic() > known[0]:
            answer = await asyncio.to_thread(look_up, self.rights)
            if len(memory) > 10_000:  # noqa: PLR2004 - more principals than a host has; they are looked up again
                memory.clear()
            known = memory[key] = (time.monotonic() + _REMEMBERED, answer)
        return known[1]

    async def readable_agents(self, principal: str) -> list[str] | None:
        """Return the agents that a principal may read, None for all."""
        if await self.is_admin(principal):
            return None
        return [agent for agent in self.config.agents if await self.may(principal, "schedule.read", agent)]

    async def settle(self) -> None:
        """Have what has come due decided, so that a change counts from now on only."""
        wake = await self.database.read(next_wake)
        if wake is not None and wake <= utc_now():
            await self.clock.decide()

    def changed(self) -> None:
        """Look at the schedules and the queue again."""
        self.clock.changed()
        self.queue.wake()
