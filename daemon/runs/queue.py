"""The queue: starts pending runs in their order, within the limits of the daemon and of each agent."""

import asyncio
import contextlib
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from datetime import datetime
from functools import partial

import structlog

from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.errors import NoRoomError, StoreUnavailableError
from daemon.model import RunStatus
from daemon.runs.cancel import cancel_pending
from daemon.runs.control import RunControl
from daemon.runs.pipeline import Pipeline
from daemon.runs.settings import settings_for
from daemon.store.cancellations import flag_cancellation
from daemon.store.changes import Changes
from daemon.store.connection import Transaction
from daemon.store.fires import mark_launched
from daemon.store.home import Home
from daemon.store.runs import Run, change_status, get_run, next_attempt_at, occupied, startable

_LOG = structlog.get_logger()
_FLAG_TIME = 1.0  # seconds to wait until a cancellation is recorded before the agents are stopped
_FLAG_TIME_AT_ONCE = 0.1  # likewise, if they must end at once
_RETRY_AFTER = 1.0  # seconds, while the database cannot be written


class Queue:
    """Starts pending runs in turn, and holds the task of each run under way."""

    def __init__(
        self, home: Home, live: LiveConfig, pipeline: Pipeline, control: RunControl, tasks: asyncio.TaskGroup
    ) -> None:
        self._home = home
        self._live = live
        self._pipeline = pipeline
        self._control = control
        self._tasks = tasks
        self._wake = asyncio.Event()
        self._is_flagged = False
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._open = True
        home.database.on_commit(self._committed)
        live.on_change(self._wake.set)

    def _committed(self, changes: Changes) -> None:
        """Wake up for changes that may let a run start, or that request the end of one."""
        if changes.labels("cancellation"):
            self._is_flagged = True
            self._wake.set()
        if changes.labels("run") - {RunStatus.RUNNING} or changes.labels("clock"):
            self._wake.set()

    def close(self) -> None:
        """Start no more runs."""
        self._open = False

    async def until_none(self, which: Callable[[], set[int]]) -> None:
        """Wait until none of the runs that `which` returns is under way."""
        while which() & self._under_way.keys():
            self._control.progress.clear()
            await self._control.progress.wait()

    def abandon(self) -> int:
        """Cancel the tasks of all runs under way, without ending the runs; return their number."""
        tasks = list(self._under_way.values())
        for task in tasks:
            task.cancel()
        return len(tasks)

    @property
    def under_way(self) -> set[int]:
        """The runs that this daemon is taking through their steps."""
        return set(self._under_way)

    async def serve(self) -> None:
        """Start runs, and stop flagged ones, until the task is cancelled."""
        while True:
            self._wake.clear()
            if self._is_flagged:
                await self.apply_flags()
            pause = await self._start_runs()
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(pause):
                    await self._wake.wait()

    async def _start_runs(self) -> float | None:
        """Claim and start all runs that may start now; return the seconds until the next one, None if there is none."""
        if not self._open:
            return None
        config = self._live.config  # a reload may replace it meanwhile
        try:
            await self._home.database.check_room()
            runs, again_at = await self._home.database.write(partial(self._claim, config))
        except NoRoomError:
            return _RETRY_AFTER
        except StoreUnavailableError as error:
            _LOG.error("[run] Runs are not started: the database cannot be written", error=str(error))
            return _RETRY_AFTER
        for run in runs:
            self._begin(run, self._pipeline.execute(run, config))
        return None if again_at is None else max(0.0, (again_at - self._home.now()).total_seconds()) + 0.001

    def adopt(self, run: Run) -> None:
        """Continue a run that an earlier daemon began."""
        self._begin(run, self._pipeline.adopt(run, self._live.config))

    def _begin(self, run: Run, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work, name=f"run {run.id}")
        self._under_way[run.id] = task
        task.add_done_callback(partial(self._done, run.id))

    def _done(self, run_id: int, task: asyncio.Task[None]) -> None:
        if self._under_way.get(run_id) is task:  # a run that was put back may be under way again
            del self._under_way[run_id]
        self._control.progress.set()

    def _claim(self, config: Config, tx: Transaction) -> tuple[list[Run], datetime | None]:
        """Move runs from pending to running within the limits; return them, and when the next one may start."""
        now = self._home.now()
        running, by_agent = occupied(tx)
        claimed: list[Run] = []
        while (room := config.daemon.max_concurrent_runs - running) > 0:
            full = [agent for agent, count in by_agent.items() if count >= _limit(config, agent)]
            heads = startable(tx, now, full, min(room, 100))
            fitting = [run for run in heads if _take_slot(config, run, by_agent)]
            claimed += [self._claim_one(config, tx, run, now) for run in fitting]
            running += len(fitting)
            if not fitting:
                break
        return claimed, next_attempt_at(tx, now)

    def _claim_one(self, config: Config, tx: Transaction, run: Run, now: datetime) -> Run:
        settings = settings_for(config, run.agent)
        change_status(tx, run, RunStatus.RUNNING, now, {"settings": json.dumps(asdict(settings)), "not_before": None})
        mark_launched(tx, run.id)
        self._pipeline.enter(tx, run, settings, now)
        return get_run(tx, run.id) or run

    async def cancel_all(self, by: str, reason: str, *, at_once: bool) -> None:
        """Cancel all runs under way; agents are stopped even if the database cannot be written."""
        run_ids = self.under_way

        def flag(tx: Transaction) -> None:
            for run_id in run_ids:
                flag_cancellation(tx, run_id, self._home.now(), by, at_once=at_once, reason=reason)

        written = asyncio.ensure_future(self._home.database.write_patiently(flag))
        await asyncio.wait({written}, timeout=_FLAG_TIME_AT_ONCE if at_once else _FLAG_TIME)
        if not written.done():
            await asyncio.to_thread(self._control.note_cancellation, run_ids, f"cancelled by {by}: {reason}")
        for run_id in run_ids:
            self._control.stop(run_id, at_once=at_once)
        await written

    async def apply_flags(self) -> None:
        """Cancel the flagged runs: pending ones in the database, the others through their agents."""
        self._is_flagged = False
        flags = await self._home.database.write_patiently(lambda tx: cancel_pending(tx, self._home.now()))
        for flag in flags:
            self._control.stop(flag.run_id, at_once=flag.at_once)


def _limit(config: Config, agent: str) -> int:
    settings = config.agents.get(agent)
    return settings.max_concurrent if settings else 1


def _take_slot(config: Config, run: Run, by_agent: dict[str, int]) -> bool:
    """Count a run of its agent if the agent has a free slot; return whether it has."""
    if by_agent.get(run.agent, 0) >= _limit(config, run.agent):
        return False
    by_agent[run.agent] = by_agent.get(run.agent, 0) + 1
    return True
