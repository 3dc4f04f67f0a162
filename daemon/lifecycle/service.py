"""The daemon from start to stop: opens its resources, adopts runs, serves, and shuts down in order."""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from functools import partial

import structlog

from daemon.agents.factory import Agents
from daemon.agents.process.cgroup_delegation import take_delegated
from daemon.agents.process.launcher import Nursery
from daemon.api.identity import Tokens, read_tokens
from daemon.api.sockets import listening
from daemon.config.live import LiveConfig
from daemon.config.paths import socket_path
from daemon.config.paths import state_dir as state_dir_of
from daemon.config.schema import Config
from daemon.errors import AgentcronError, StoreDamagedError
from daemon.http_client import open_session
from daemon.lifecycle.build import Figures, Parts, Resources, build
from daemon.lifecycle.open_files import raise_open_files
from daemon.lifecycle.reload import warn_of_exposures, warn_of_surprises
from daemon.lifecycle.signals import Hangup, Stop, ignore_hangups
from daemon.lifecycle.startup import open_patiently, prepare_database, unless_stopped
from daemon.log import Log
from daemon.metrics import Metrics
from daemon.recovery.adoption import adopt_runs
from daemon.recovery.last_config import keep_config
from daemon.runs.hook_tokens import HookTokens, open_key
from daemon.runs.status_log import log_changes
from daemon.schedule_metrics import ScheduleMetrics
from daemon.store.home import Home, instance_id, read_clock_trust
from daemon.store.lock import DaemonLock
from daemon.store.state_dir import open_state
from daemon.systemd import more_time, notify, starting
from daemon.units import utc_now
from daemon.version import VERSION

_LOG = structlog.get_logger()
_STOP_MARGIN = 10.0  # seconds beyond stop_timeout; a stop needs at most 5 of them
_HELD_BACK_AFTER = 2.0  # seconds that a start may wait for the database before it says so
_THREADS = 32  # at most; they are created on demand


async def serve(config: Config, log: Log, *, accept_data_loss: bool = False) -> None:
    """Run the daemon until it is stopped; raise AgentcronError if it cannot start."""
    live, started, state_dir = LiveConfig(config), utc_now(), state_dir_of(config)
    umask = os.umask(0o077)
    ignore_hangups()
    open_files = raise_open_files()
    # more threads than by default, so that slow name lookups do not delay the file work of other runs
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "agentcron"))
    lock = DaemonLock(state_dir)
    try:
        stop = Stop(live)
        opening = partial(open_state, state_dir, started, accept_data_loss=accept_data_loss)
        opened = await open_patiently(opening, stop)
        if opened is None:
            return
        async with opened as database, _nursery(open_files) as nursery, open_session() as session:
            tokens = Tokens(read_tokens(config))  # before anything starts, so that an invalid one stops the start
            hooks = HookTokens(await asyncio.to_thread(open_key, state_dir))
            agents = Agents(nursery, await asyncio.to_thread(take_delegated), session, umask)
            with listening(socket_path(config), config.control.group, config.control.listen) as listeners:
                lock.record_socket(socket_path(config))
                await _run(
                    Resources(live, log, stop, started, state_dir, database, agents, session, hooks, tokens, listeners)
                )
    finally:
        lock.release()
        os.umask(umask)
    log.flood.report_suppressed(at_once=True)
    _LOG.info("[daemon] Stopped")


@contextlib.asynccontextmanager
async def _nursery(open_files: int) -> AsyncIterator[Nursery]:
    nursery = Nursery(open_files)
    try:
        yield nursery
    finally:
        await nursery.close()


async def _run(resources: Resources) -> None:
    """Prepare the database, build the parts, and run them until a stop is requested."""
    figures = Figures(Metrics(), ScheduleMetrics())
    resources.database.on_commit(figures.metrics.committed)
    resources.database.on_commit(figures.of_schedules.committed)
    resources.database.on_commit(log_changes)
    reading, limit = asyncio.create_task(_home(resources)), resources.live.config.daemon.stop_timeout.total_seconds()
    async with starting():
        if not await unless_stopped(reading, resources.stop, limit):
            _LOG.warning("[daemon] Stopping before the database could be read; running agents continue")
            return
    home = reading.result()
    async with asyncio.TaskGroup() as runs, asyncio.TaskGroup() as requests, asyncio.TaskGroup() as loops:
        service = Service(resources, home, build(resources, home, figures, runs, requests))
        await service.run(loops)
    if service.failure is not None:
        raise service.failure


async def _home(resources: Resources) -> Home:
    """Return what all parts work on; wait while the database cannot be read."""
    database = resources.database
    return Home(
        database,
        resources.state_dir,
        await database.read_patiently(instance_id),
        resources.started,
        clock_trust=await database.read_patiently(read_clock_trust),
    )


class Service:
    """The running daemon."""

    def __init__(self, resources: Resources, home: Home, parts: Parts) -> None:
        self._resources = resources
        self._stop_signal = resources.stop
        self._live = resources.live
        self._home = home
        self._parts = parts
        self.failure: AgentcronError | None = None
        """Why the database could not be prepared, if that is why the daemon ended."""

    async def run(self, loops: asyncio.TaskGroup) -> None:
        """Prepare the database, adopt runs, arm the clock, report ready, and serve until a stop is requested."""
        parts = self._parts
        serving = [loops.create_task(parts.watchdog.serve())]
        hangup = Hangup(self._resources.log, parts.reloader, parts.background)
        try:
            prepared = await self._prepare()
        except AgentcronError as error:
            self.failure = error
            await self._close(serving)
            return
        if not prepared:
            notify("STOPPING=1")
            _LOG.warning("[daemon] Stopping before the database could be written; running agents continue")
            await self._close(serving)
            return
        self._resources.agents.warn_of_unenforced_limits(self._live.config)
        await parts.server.start()
        adopting = asyncio.create_task(adopt_runs(self._home, parts.queue))
        async with starting():
            if not await unless_stopped(adopting, self._stop_signal, self._stop_timeout()):
                _LOG.warning("[daemon] Stopping before all runs of an earlier daemon could be adopted; they continue")
        clock: asyncio.Task[None] | None = None
        if not self._stop_signal.requested.is_set():
            clock = loops.create_task(parts.clock.serve())
            serving += [
                clock,
                *(
                    loops.create_task(part.serve())
                    for part in (
                        parts.queue,
                        parts.probes,
                        parts.clock_watch,
                        parts.cleanup,
                        parts.mirrors,
                        parts.retention,
                        parts.notifier,
                        parts.dead_man_switches,
                    )
                ),
            ]
            notify("READY=1", await parts.status.text())
            hangup.ready.set()
            _LOG.info("[daemon] Ready", pid=os.getpid(), state_dir=str(self._home.state_dir), version=VERSION)
            parts.background.start_unattended(
                asyncio.to_thread(keep_config, self._live.config, self._home.state_dir, utc_now())
            )
            parts.background.start_unattended(warn_of_exposures(self._live.config))
            parts.background.start_unattended(warn_of_surprises(self._live.config))
            parts.background.start_unattended(parts.review())
            await self._until_stopped()
        await self._stop(serving, clock)

    async def _prepare(self) -> bool:
        """Prepare the database; return whether that was done before a stop was requested.

        If it takes long because the database cannot be written, answer what can be read meanwhile, and say why.
        """
        preparing = asyncio.create_task(prepare_database(self._home, self._live))
        holding = asyncio.create_task(self._hold_back(preparing))
        try:
            async with starting():
                return await unless_stopped(preparing, self._stop_signal, self._stop_timeout())
        finally:
            preparing.cancel()
            await holding
            health = self._parts.status.health
            health.starting, health.store = False, ""

    async def _hold_back(self, preparing: asyncio.Task[None]) -> None:
        """Report ready, with starts held back, if the database cannot be written for a while."""
        while not preparing.done() and self._home.database.outage.reason is None:
            await asyncio.wait({preparing}, timeout=_HELD_BACK_AFTER)
        await asyncio.wait({preparing}, timeout=_HELD_BACK_AFTER)
        if preparing.done():
            return
        status = self._parts.status
        status.health.starting = True
        status.health.store = self._home.database.outage.reason or ""
        await self._parts.server.start()
        _LOG.error("[daemon] Ready to be asked, but nothing is started", reason=status.health.store)
        notify("READY=1", await status.text())

    def _stop_timeout(self) -> float:
        return self._live.config.daemon.stop_timeout.total_seconds()

    async def _until_stopped(self) -> None:
        """Wait for a stop request; raise StoreDamagedError as soon as the database is found to be damaged."""
        stop, damaged = self._stop_signal.requested, self._home.database.damaged
        waiting = {asyncio.create_task(event.wait()) for event in (stop, damaged)}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if damaged.is_set() and not stop.is_set():
            raise StoreDamagedError("the database is damaged; restore a backup with `agentcron restore`")

    async def _stop(self, serving: list[asyncio.Task[None]], clock: asyncio.Task[None] | None) -> None:
        """Start no more runs, end or wait for runs as the mode says, and leave the rest to the next daemon."""
        parts, mode = self._parts, self._stop_signal.mode or "detach"
        limit = self._stop_timeout()
        notify("STOPPING=1")
        notify(more_time(limit + _STOP_MARGIN))
        _LOG.info("[daemon] Stopping", mode=mode, runs=len(parts.queue.under_way))
        parts.queue.close()
        if clock is not None:  # a due time that comes now is left to the next daemon
            clock.cancel()
            await asyncio.wait({clock})
        await parts.shutdown.wait_for_runs(mode, limit)
        await self._close(serving)
        left = parts.queue.abandon()
        if left:
            how = "running for the next daemon to adopt" if mode == "detach" else "for the next daemon to record"
            _LOG.info(f"[run] Left {how}", runs=left)

    async def _close(self, serving: list[asyncio.Task[None]]) -> None:
        """Answer nothing more, and end the loops and the work of requests."""
        await self._parts.server.close()
        for task in serving:
            task.cancel()
        await self._parts.background.stop()
