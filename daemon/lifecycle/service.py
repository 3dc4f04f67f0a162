"""The daemon as a whole: open, recover, arm, ready, reload, stop. The only place that wires the parts together."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import structlog

from daemon import __version__
from daemon.access import Rights
from daemon.agents.factory import Agents
from daemon.agents.process.cgroups import take_delegated
from daemon.agents.process.launcher import Nursery
from daemon.api.context import ApiContext
from daemon.api.identity import Tokens
from daemon.api.server import ControlServer
from daemon.api.sockets import Listeners, listening
from daemon.clock.alarm import Clock
from daemon.config.effective import audience_of, budgets_of
from daemon.config.paths import socket_path
from daemon.config.paths import state_dir as state_dir_of
from daemon.config.schema import Config
from daemon.errors import StoreDamagedError, StoreUnavailableError
from daemon.fires.decision import Claim, Fire, Present
from daemon.http_client import open_session
from daemon.lifecycle.reload import Reloader
from daemon.lifecycle.shutdown import wait_for_runs
from daemon.lifecycle.signals import Stop
from daemon.lifecycle.startup import prepare_database, unless_stopped
from daemon.lifecycle.watchdog import Watchdog
from daemon.log import Log
from daemon.maintenance.cleanup import Cleanup
from daemon.maintenance.retention import Retention
from daemon.metrics import Metrics
from daemon.model import WakeTime
from daemon.notify.outbox import Notice, tell
from daemon.notify.sender import Notifier
from daemon.open_files import raise_open_files
from daemon.recovery.adoption import recover
from daemon.runs.hook_calls import HookCalls
from daemon.runs.hook_tokens import Hooks, open_key
from daemon.runs.pipeline import Heard, Pipeline
from daemon.runs.queue import Queue
from daemon.store.connection import Counts
from daemon.store.database import Database
from daemon.store.lock import DaemonLock
from daemon.store.state_dir import open_state
from daemon.systemd import more_time, notify, starting
from daemon.units import utc_now

T = TypeVar("T")
_LOG = structlog.get_logger()
_LOOK_UP = 1.0  # seconds that a look-up of rights may hold up due times
_STOP_MARGIN = 10.0  # seconds beyond stop_timeout, of which a stop needs 5 at most
_THREADS = 32  # made as they are needed


async def serve(config: Config, log: Log, *, accept_data_loss: bool = False) -> None:
    """Run the daemon until it is told to stop; raise AgentcronError if it cannot start."""
    started = utc_now()
    state_dir = state_dir_of(config)
    umask = os.umask(0o077)
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until there is somebody to hear it
    open_files = raise_open_files()
    # names that resolve slowly must not hold up the folders of other runs
    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(_THREADS, "agentcron"))
    lock = DaemonLock(state_dir)
    try:
        stop = Stop(config.daemon.on_stop)
        opening = partial(open_state, state_dir, started, accept_data_loss=accept_data_loss)
        async with starting():
            opened = await asyncio.to_thread(opening)
        async with (
            opened as database,
            _nursery(open_files) as nursery,
            open_session() as session,
        ):
            Tokens(config)  # one that cannot be used is told before anything is begun
            control = config.control
            hooks = Hooks(await asyncio.to_thread(open_key, state_dir))
            agents = Agents(nursery, await asyncio.to_thread(take_delegated), session, umask)
            with listening(socket_path(config), control.group, control.listen) as listeners:
                lock.tell(socket_path(config))
                service = Service(
                    config, log, database, agents, session, hooks, listeners, stop, state_dir, started, umask
                )
                await service.run()
    finally:
        lock.release()
        os.umask(umask)
    log.flood.tell(at_once=True)
    _LOG.info("[daemon] Stopped")


@contextlib.asynccontextmanager
async def _nursery(open_files: int) -> AsyncIterator[Nursery]:
    nursery = Nursery(open_files)
    try:
        yield nursery
    finally:
        await nursery.close()


class Service:
    """The running daemon."""

    def __init__(
        self,
        config: Config,
        log: Log,
        database: Database,
        agents: Agents,
        session: aiohttp.ClientSession,
        hooks: Hooks,
        listeners: Listeners,
        stop: Stop,
        state_dir: Path,
        started: datetime,
        umask: int,
    ) -> None:
        self.config = config
        self._log = log
        self._database = database
        self._agents = agents
        self._hooks = hooks
        self._listeners = listeners
        self._stop_signal = stop
        self._state_dir = state_dir
        self._started = started
        self._umask = umask
        self._instance = ""
        self._audience = audience_of(config)
        self._metrics = Metrics()
        self._notifier = Notifier(database, session, config, utc_now, self._metrics.notified)
        database.counted = self._counted
        self._pipeline: Pipeline
        self._queue: Queue
        self._clock: Clock
        self._api: ApiContext
        self._server: ControlServer
        self._reloader: Reloader
        self._watchdog: Watchdog
        self._cleanup: Cleanup
        self._retention: Retention
        self._asked: set[asyncio.Task[Any]] = set()  # what somebody asked for and is under way

    async def run(self) -> None:
        """Recover, arm the clock, be ready, and stay until told to stop."""
        preparing = prepare_database(self._database, self._state_dir, self.config, self._started, self._audience)
        limit = self.config.daemon.stop_timeout.total_seconds()
        async with starting():
            instance = await unless_stopped(preparing, self._stop_signal, limit)
        if instance is None:
            notify("STOPPING=1")
            _LOG.warning("[daemon] Stopping before the database could be written; agents that run go on")
            return
        self._instance = instance
        async with asyncio.TaskGroup() as runs, asyncio.TaskGroup() as loops:
            self._wire(runs)
            self._agents.tell_limits(self.config)
            self._watch_for_requests()
            await self._server.start()
            async with starting():
                await recover(self._database, self._queue)
            standing: list[asyncio.Task[Any]] = []
            if not self._stop_signal.asked.is_set():
                standing = [
                    loops.create_task(work)
                    for work in (
                        self._queue.serve(),
                        self._clock.serve(),
                        self._clock.watch(),
                        self._cleanup.serve(),
                        self._retention.serve(),
                        self._notifier.serve(),
                        self._watchdog.serve(),
                    )
                ]
                notify("READY=1", await self._watchdog.status())
                _LOG.info("[daemon] Ready", pid=os.getpid(), state_dir=str(self._state_dir), version=__version__)
                await self._until_stopped()
            await self._stop(standing)

    async def _until_stopped(self) -> None:
        """Return when somebody asks for a stop; raise StoreDamagedError as soon as the database is found damaged."""
        waiting = {asyncio.create_task(event.wait()) for event in (self._stop_signal.asked, self._database.damaged)}
        await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        for task in waiting:
            task.cancel()
        if self._database.damaged.is_set() and not self._stop_signal.asked.is_set():
            raise StoreDamagedError("the database is damaged; put a backup back with `agentcron restore`")

    def _wire(self, runs: asyncio.TaskGroup) -> None:
        self._pipeline = Pipeline(
            self._database,
            self._state_dir,
            self._agents,
            self._hooks,
            self._umask,
            self._instance,
            utc_now,
            self._may_deliver,
            lambda: self._audience,
            Heard(self._run_lasted, self._metrics.tried, self._made_room),
        )
        self._queue = Queue(self._database, self._pipeline, self.config, runs, utc_now)
        self._clock = Clock(self._database, self._present, utc_now, self._fired, self._look_up)
        self._cleanup = Cleanup(
            self._database, self._state_dir, self.config, utc_now, self._metrics.cleaned, self._tell
        )
        self._retention = Retention(
            self._database, self._state_dir, self.config, self._cleanup, utc_now, self._metrics.swept, self._tell
        )
        self._watchdog = Watchdog(
            self._database, self._queue, self._metrics, self._log.flood, lambda: self._reloader.refusal
        )
        self._reloader = Reloader(
            self.config, self._state_dir, self._database, self._clock.decide, self._use, self._watchdog.status
        )
        self._api = ApiContext(
            database=self._database,
            clock=self._clock,
            queue=self._queue,
            metrics=self._metrics,
            cleanup=self._cleanup,
            retention=self._retention,
            hook_calls=HookCalls(
                self._database,
                self._pipeline,
                self._state_dir,
                self._instance,
                utc_now,
                lambda: self._audience,
            ),
            start=self._begin,
            reload=self._reloader.reload,
            amiss=self._watchdog.amiss,
            state_dir=self._state_dir,
            instance=self._instance,
            config=self.config,
            rights=Rights(self.config),
        )
        self._server = ControlServer(self._api, self._listeners)

    def _present(self, now: WakeTime) -> Present:
        config = self.config
        agents, zone = frozenset(config.agents), config.daemon.timezone
        return Present(now, self._started, agents, self._instance, budgets_of(config), zone, self._audience)

    async def _look_up(self, claims: set[Claim]) -> dict[Claim, bool]:
        """Look up which creators may start runs of which agents, off the loop; leave out what takes too long."""
        rights = self._api.rights
        asked = {asyncio.ensure_future(asyncio.to_thread(rights.grant, {claim})) for claim in claims}
        done, _ = await asyncio.wait(asked, timeout=_LOOK_UP) if asked else (set(), set())
        return {claim: right for answer in done for claim, right in answer.result().items()}

    async def _may_deliver(self, principal: str, agent: str) -> bool:
        """Tell whether the input of a principal's run may still be delivered."""
        rights = self._api.rights
        at_once = rights.may_at_once(principal)
        return at_once if at_once is not None else await asyncio.to_thread(rights.may, principal, "task.update", agent)

    def _counted(self, counts: Counts) -> None:
        """Hear what was committed."""
        self._metrics.count(counts)
        kinds = {kind for kind, _ in counts}
        if "news" in kinds:
            self._notifier.look()
        elif "notification" in kinds:
            self._notifier.wake()

    async def _tell(self, notices: list[Notice]) -> None:
        """Have people told of what happened beside the runs, if the database can be written."""
        with contextlib.suppress(StoreUnavailableError):  # of which the log tells enough
            await self._database.write(lambda tx: tell(tx, self._audience, notices, utc_now()))

    def _made_room(self) -> None:
        self._queue.wake()

    def _run_lasted(self, duration: timedelta) -> None:
        self._metrics.run_lasted(duration)
        self._cleanup.wake()

    async def _fired(self, fires: list[Fire]) -> None:
        self._metrics.fired(fires)
        self._queue.wake()
        if any(fire.stops_others for fire in fires):
            await self._queue.obey_flags()

    # signals

    def _watch_for_requests(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Do what a signal asked for; whatever goes wrong with it is told and stops nothing else."""

        async def guarded() -> None:
            try:
                await work
            except Exception:  # noqa: BLE001 - a bad request must not stop the daemon
                _LOG.exception("[daemon] Unexpected error")

        self._begin(guarded())

    def _begin(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Begin work that somebody asked for, which is cancelled when the daemon stops."""
        task = asyncio.create_task(work)
        self._asked.add(task)
        task.add_done_callback(self._asked.discard)
        return task

    # reload

    async def reload(self) -> None:
        """Do what SIGHUP asks for."""
        self._log.file.reopen()
        await self._reloader.on_signal()

    def _use(self, config: Config, tokens: Tokens) -> None:
        """Go by another config from now on."""
        self.config = self._queue.config = self._cleanup.config = self._retention.config = self._notifier.config = (
            config
        )
        self._audience = audience_of(config)
        self._agents.tell_limits(config)
        self._api.use(config)
        self._server.use(config, tokens)
        self._stop_signal.term_means = config.daemon.on_stop
        self._queue.wake()
        self._clock.changed()
        self._notifier.look()

    # stop

    async def _stop(self, standing: list[asyncio.Task[Any]]) -> None:
        """Start nothing more, let runs end as the mode says, and leave what is left to the next daemon."""
        mode = self._stop_signal.mode or "detach"
        limit = self.config.daemon.stop_timeout.total_seconds()
        notify("STOPPING=1")
        notify(more_time(limit + _STOP_MARGIN))
        _LOG.info("[daemon] Stopping", mode=mode, runs=len(self._queue.under_way))
        self._queue.close()
        await wait_for_runs(mode, self._queue, self._pipeline, self._stop_signal, limit, self._spawn)
        await self._server.close()
        asked = list(self._asked)
        for task in (*standing, *asked):
            task.cancel()
        await asyncio.gather(*asked, return_exceptions=True)
        left = self._queue.abandon()
        if left:
            how = "running for the next daemon to adopt" if mode == "detach" else "for the next daemon to record"
            _LOG.info(f"[run] Left {how}", runs=left)
