"""The daemon as a whole: open, recover, arm, ready, reload, stop. The only place that wires the parts together."""

import asyncio
import contextlib
import os
import signal
from collections.abc import AsyncIterator, Coroutine
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any

import structlog

from daemon import __version__
from daemon.agents.launcher import Nursery
from daemon.clock import Clock
from daemon.config.differences import changed_settings
from daemon.config.inactive import inactive_settings
from daemon.config.loading import load_config
from daemon.config.places import state_dir as state_dir_of
from daemon.config.schema import Config
from daemon.errors import ConfigError, StoreUnavailableError
from daemon.fires import Fire, Present, step_back
from daemon.log import LogFile
from daemon.model import WakeTime
from daemon.recovery import recover, start_anew
from daemon.runs.folders import runs_with_folders
from daemon.runs.pipeline import Pipeline
from daemon.runs.queue import Queue
from daemon.schedules import Declared, sync_declared
from daemon.stopping import Stop, StopMode
from daemon.store.database import Database
from daemon.store.opening import DaemonLock, open_state
from daemon.store.runs import count_pending
from daemon.store.schedules import next_wake
from daemon.systemd import notify, watchdog_interval
from daemon.units import format_instant, utc_now

_LOG = structlog.get_logger()
_STATUS_EVERY = 10.0  # seconds
_LAST_MOMENT = 2.0  # seconds that a run gets after it was ended at once


async def serve(config: Config, log: LogFile, *, accept_data_loss: bool = False) -> None:
    """Run the daemon until it is told to stop; raise AgentcronError if it cannot start."""
    started = utc_now()
    state_dir = state_dir_of(config)
    umask = os.umask(0o077)
    for early in (signal.SIGUSR1, signal.SIGHUP):  # until there is somebody to hear them
        signal.signal(early, signal.SIG_IGN)
    lock = DaemonLock(state_dir)
    try:
        stop = Stop(config.daemon.on_stop)
        opening = partial(open_state, state_dir, started, accept_data_loss=accept_data_loss)
        async with await asyncio.to_thread(opening) as database, _nursery() as nursery:
            service = Service(config, log, database, nursery, stop, state_dir, started, umask)
            await service.run()
    finally:
        lock.release()
        os.umask(umask)
    _LOG.info("[daemon] Stopped")


@contextlib.asynccontextmanager
async def _nursery() -> AsyncIterator[Nursery]:
    nursery = Nursery()
    try:
        yield nursery
    finally:
        await nursery.close()


class Service:
    """The running daemon."""

    def __init__(
        self,
        config: Config,
        log: LogFile,
        database: Database,
        nursery: Nursery,
        stop: Stop,
        state_dir: Path,
        started: datetime,
        umask: int,
    ) -> None:
        self.config = config
        self._log = log
        self._database = database
        self._nursery = nursery
        self._stop_signal = stop
        self._state_dir = state_dir
        self._started = started
        self._umask = umask
        self._instance = ""
        self._queue: Queue
        self._clock: Clock
        self._tasks: asyncio.TaskGroup
        self._reloading = asyncio.Lock()
        self._reload_waits = False
        self._asked: set[asyncio.Task[None]] = set()  # what signals asked for and is under way

    async def run(self) -> None:
        """Recover, arm the clock, be ready, and stay until told to stop."""
        if not await self._is_prepared():
            notify("STOPPING=1")
            _LOG.warning("[daemon] Stopping before the database could be written; agents that run go on")
            return
        async with asyncio.TaskGroup() as runs, asyncio.TaskGroup() as loops:
            self._wire(runs)
            self._tasks = loops
            self._watch_for_requests()
            await recover(self._database, self._queue)
            standing: list[asyncio.Task[Any]] = []
            if not self._stop_signal.asked.is_set():
                standing = [
                    loops.create_task(work)
                    for work in (self._queue.serve(), self._clock.serve(), self._clock.watch(), self._report())
                ]
                notify("READY=1", await self._status())
                _LOG.info("[daemon] Ready", pid=os.getpid(), state_dir=str(self._state_dir), version=__version__)
                await self._stop_signal.asked.wait()
            await self._stop(standing)

    async def _is_prepared(self) -> bool:
        """Prepare; return whether that was possible, before somebody wanted a stop, or within the time that it has."""
        preparing = asyncio.create_task(self._prepare())
        asked = asyncio.create_task(self._stop_signal.asked.wait())
        await asyncio.wait({preparing, asked}, return_when=asyncio.FIRST_COMPLETED)
        if not preparing.done():
            at_once = asyncio.create_task(self._stop_signal.at_once.wait())
            limit = self.config.daemon.stop_timeout.total_seconds()
            await asyncio.wait({preparing, at_once}, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
            at_once.cancel()
        asked.cancel()
        if not preparing.done():
            preparing.cancel()
            return False
        await preparing
        return True

    async def _prepare(self) -> None:
        """Bring the database in line with the file and the clock."""
        config = self.config
        idle = inactive_settings(config)
        if idle:
            _LOG.warning("[config] Not yet active in this version", settings=", ".join(idle))
        if self._database.lost:
            begun = await asyncio.to_thread(runs_with_folders, self._state_dir)
            await self._database.write_patiently(lambda tx: start_anew(tx, self._started, begun))
        await self._database.write_patiently(lambda tx: step_back(tx, self._started))
        declared = await self._database.write_patiently(lambda tx: sync_declared(tx, config, self._started))
        _log_declared(declared)
        self._instance = await self._database.read(
            lambda connection: str(connection.execute("SELECT id FROM instance").fetchone()["id"])
        )

    def _wire(self, runs: asyncio.TaskGroup) -> None:
        pipeline = Pipeline(self._database, self._state_dir, self._nursery, self._umask, self._instance, utc_now)
        self._queue = Queue(self._database, pipeline, self.config, runs, utc_now)
        self._clock = Clock(self._database, self._present, utc_now, self._fired)

    def _present(self, now: WakeTime) -> Present:
        return Present(now, self._started, frozenset(self.config.agents), self._instance)

    async def _fired(self, fires: list[Fire]) -> None:
        self._queue.wake()
        if any(fire.stops_others for fire in fires):
            await self._queue.obey_flags()

    # signals

    def _watch_for_requests(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._spawn(self.reload()))
        loop.add_signal_handler(signal.SIGUSR1, lambda: self._spawn(self._queue.obey_flags()))

    def _spawn(self, work: Coroutine[Any, Any, object]) -> None:
        """Do what a signal asked for; whatever goes wrong with it is told and stops nothing else."""

        async def guarded() -> None:
            try:
                await work
            except Exception:  # noqa: BLE001 - a bad request must not stop the daemon
                _LOG.exception("[daemon] Unexpected error")

        self._asked.add(task := self._tasks.create_task(guarded()))
        task.add_done_callback(self._asked.discard)

    # reload

    async def reload(self) -> None:
        """Read the file again: a bad one changes nothing, a good one is applied as a whole.

        Of those who ask while a reload is under way, one waits and speaks for all: it reads the file as it is then.
        """
        self._log.reopen()
        if self._reload_waits:
            return
        self._reload_waits = True
        async with self._reloading:
            self._reload_waits = False
            notify("RELOADING=1", f"MONOTONIC_USEC={_monotonic_usec()}")
            try:
                config = await asyncio.to_thread(load_config, self.config.file)
                await self._clock.decide()
                declared = await self._database.write(lambda tx: sync_declared(tx, config, utc_now()))
            except ConfigError as error:
                for problem in error.problems:
                    _LOG.error("[config] Not reloaded", problem=problem)
            except StoreUnavailableError as error:
                _LOG.error("[config] Not reloaded; reload again when it can be written", problem=str(error))
            else:
                self._apply(config, declared)
            notify("READY=1", await self._status())

    def _apply(self, config: Config, declared: list[Declared]) -> None:
        if state_dir_of(config) != self._state_dir:
            _LOG.warning("[config] Takes effect at the next start", setting="daemon.state_dir")
        if config.log != self.config.log:
            _LOG.warning("[config] Takes effect at the next start", setting="log")
        for setting in changed_settings(self.config, config):
            _LOG.info("[config] Setting changed", setting=setting)
        self.config = self._queue.config = config
        self._stop_signal.term_means = config.daemon.on_stop
        _log_declared(declared)
        _LOG.info("[config] Reloaded", file=str(config.file), changed_schedules=len(declared))
        self._queue.wake()
        self._clock.changed()

    # stop

    async def _stop(self, standing: list[asyncio.Task[Any]]) -> None:
        """Start nothing more, let runs end as the mode says, and leave what is left to the next daemon."""
        mode = self._stop_signal.mode or "detach"
        notify("STOPPING=1")
        _LOG.info("[daemon] Stopping", mode=mode, runs=len(self._queue.under_way))
        self._queue.close()
        if mode != "detach":
            await self._wait_for_runs(mode)
        for task in (*standing, *self._asked):
            task.cancel()
        left = self._queue.abandon()
        if left:
            how = "running for the next daemon to adopt" if mode == "detach" else "for the next daemon to record"
            _LOG.info(f"[run] Left {how}", runs=left)

    async def _wait_for_runs(self, mode: StopMode) -> None:
        limit = self.config.daemon.stop_timeout.total_seconds()
        waits = {asyncio.create_task(self._queue.empty()), asyncio.create_task(self._stop_signal.at_once.wait())}
        if mode == "cancel":
            self._spawn(self._queue.cancel_all("config", "the daemon was stopped", at_once=False))
        await asyncio.wait(waits, timeout=limit, return_when=asyncio.FIRST_COMPLETED)
        if mode == "cancel" and self._queue.under_way:
            self._spawn(self._queue.cancel_all("config", "the daemon was stopped", at_once=True))
            last = asyncio.create_task(self._queue.empty())
            await asyncio.wait({last}, timeout=_LAST_MOMENT)
            waits.add(last)
        for task in waits:
            task.cancel()

    # what the service manager hears

    async def _report(self) -> None:
        """Tell systemd how things stand, and that loop and database writer advance."""
        interval = min(watchdog_interval() or _STATUS_EVERY, _STATUS_EVERY)
        while True:
            await asyncio.sleep(interval)
            with contextlib.suppress(StoreUnavailableError):  # the writer answered: it advances
                await self._database.write(lambda tx: tx.execute("SELECT 1").fetchone())
            notify("WATCHDOG=1")
            with contextlib.suppress(StoreUnavailableError):
                notify(await self._status())

    async def _status(self) -> str:
        running = len(self._queue.under_way)
        waiting = await self._database.read(count_pending)
        wake = await self._database.read(next_wake)
        following = f", next {format_instant(wake)}" if wake else ""
        return f"STATUS={running} running, {waiting} waiting{following}"


def _log_declared(declared: list[Declared]) -> None:
    for change in declared:
        keys = {"changed": ", ".join(sorted(change.changes))} if change.changes else {}
        _LOG.info(f"[config] Schedule {change.action}", schedule=change.address, **keys)


def _monotonic_usec() -> int:
    return int(asyncio.get_running_loop().time() * 1_000_000)
