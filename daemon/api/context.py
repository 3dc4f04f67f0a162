"""What the routes act upon: the parts of the running daemon."""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from daemon.access import Access
from daemon.api.background import Background
from daemon.api.bodies import Bodies
from daemon.api.cache import ResponseCache
from daemon.api.sending import UnreadAnswers
from daemon.clock.alarm import Clock
from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.maintenance.cleanup import Cleanup
from daemon.maintenance.retention import Retention
from daemon.maintenance.workspace_removal import WorkspaceRemoval
from daemon.metrics import Metrics
from daemon.notify.outbox import Outbox
from daemon.runs.hook_calls import HookCalls
from daemon.schedule_metrics import ScheduleMetrics
from daemon.schedules.declared import Reloaded
from daemon.store.home import Home
from daemon.views.health import Health
from daemon.workspaces.mirror_use import MirrorUse

_AT_ONCE = 4  # answers that are read from the database; it has one thread for that


@dataclass(frozen=True)
class ApiContext:
    """The running daemon as the routes see it."""

    home: Home
    live: LiveConfig
    access: Access
    clock: Clock
    outbox: Outbox
    metrics: Metrics
    schedule_metrics: ScheduleMetrics
    cleanup: Cleanup
    removal: WorkspaceRemoval
    retention: Retention
    hook_calls: HookCalls
    health: Health
    mirrors: MirrorUse
    background: Background
    """Long work that continues without the client that asked for it."""
    reload: Callable[[], Awaitable[Reloaded]]
    """Read the config file again: what changed, and warnings; raises ConfigError for a bad one."""
    forget_if_undone: Callable[[], Awaitable[None]]
    """Forget that a reload failed if the file says again what is in force; called before that is shown."""
    cache: ResponseCache = field(default_factory=ResponseCache)
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(_AT_ONCE))
    """Held while an answer is read from the database."""
    bodies: Bodies = field(default_factory=Bodies)
    unread: UnreadAnswers = field(default_factory=UnreadAnswers)
    closing: asyncio.Event = field(default_factory=asyncio.Event)
    """Whether the daemon stops: answers without an end are broken off."""

    @property
    def config(self) -> Config:
        """The config in force."""
        return self.live.config

    async def pause(self, seconds: float) -> None:
        """Wait a little; raise ConnectionResetError when the daemon stops."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self.closing.wait()
                raise ConnectionResetError
