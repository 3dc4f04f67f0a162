"""The queue: starts pending runs in their order, within the limits of the daemon and of each agent."""

import asyncio
import contextlib
import time
from collections.abc import Callable, Collection, Coroutine, Iterable, Mapping
from functools import partial

import structlog

from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.errors import NoRoomError, StoreUnavailableError
from daemon.model import RunStatus
from daemon.notify.outbox import Outbox
from daemon.problems import described, standing_loop
from daemon.runs.cancel import cancel_pending
from daemon.runs.claims import Claimed, Claims
from daemon.runs.control import RunControl
from daemon.runs.fetches import Fetches
from daemon.runs.pipeline import Pipeline
from daemon.runs.withdrawal import Withdrawals
from daemon.store.cancellations import Flag, flag_cancellation
from daemon.store.changes import Changes
from daemon.store.connection import Transaction, concerns_others
from daemon.store.home import Home
from daemon.store.runs import Run
from daemon.store.unfinished_runs import started_runs

_LOG = structlog.get_logger()
_FLAG_TIME = 1.0  # seconds to wait until a cancellation is recorded before the agents are stopped
_FLAG_TIME_AT_ONCE = 0.1  # likewise, if they must end at once
_RETRY_AFTER = 1.0  # seconds, while the database cannot be written
_FIRST_PUT_OFF, _LONGEST_PUT_OFF = 5.0, 300.0  # seconds until a run that cannot be started or stopped is retried
_PART = "queue"


class Queue:
    """Starts pending runs in turn, and holds the task of each run under way."""

    def __init__(
        self,
        home: Home,
        live: LiveConfig,
        pipeline: Pipeline,
        withdrawals: Withdrawals,
        control: RunControl,
        fetches: Fetches,
        outbox: Outbox,
        tasks: asyncio.TaskGroup,
    ) -> None:
        self._home = home
        self._live = live
        self._pipeline = pipeline
        self._withdrawals = withdrawals
        self._control = control
        self._fetches = fetches
        self._claims = Claims(home, pipeline, fetches, outbox)
        self._tasks = tasks
        self._wake = asyncio.Event()
        self._is_flagged = False
        self._was_interrupted = False
        self._adopts_again = False
        self._adoption: asyncio.TimerHandle | None = None
        """When runs that could not be adopted are tried again."""
        self._put_off: dict[int, float] = {}
        """Runs that cannot be started or stopped, with the monotonic time of the next attempt."""
        self._under_way: dict[int, asyncio.Task[None]] = {}
        self._open = True
        home.database.on_commit(self._committed)
        live.on_change(self._wake.set)
        fetches.on_end(self._wake.set)

    def _committed(self, changes: Changes) -> None:
        """Wake up for changes that may let a run start, or that request the end of one."""
        if changes.labels("cancellation"):
            self._is_flagged = True
            self._wake.set()
        if changes.labels("run") - {RunStatus.RUNNING} or any(map(changes.labels, ("clock", "schedule", "pool"))):
            self._wake.set()
        for run_id in changes.unconfirmed:
            self._control.in_flight.add(run_id)
            self._begin(run_id, self._withdrawals.withdraw(run_id))

    def close(self) -> None:
        """Start no more runs."""
        self._open = False
        self._fetches.close()

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
        await standing_loop(_PART, self._home.problems, self._work, self._rest)

    async def _work(self) -> float | None:
        self._wake.clear()
        if self._was_interrupted or self._adopts_again:
            self._was_interrupted, self._adopts_again = True, False
            await self._adopt_lost()
        self._was_interrupted = True  # until the end of this work is reached
        if self._is_flagged:
            await self.apply_flags()
        pause = await self._start_runs()
        self._was_interrupted = False
        return pause

    async def _rest(self, pause: float | None) -> None:
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(pause):
                await self._wake.wait()

    async def _adopt_lost(self) -> None:
        """Continue the runs that were claimed but not begun, because an error interrupted the work of the queue.

        Those that are under way are known before the database is read: one that ends meanwhile must not be adopted,
        since it could be put back and claimed again. The read waits behind a claim that is being written.
        """
        known = self.under_way
        if self._open:
            started, unreadable = await self._home.database.write_patiently(started_runs)
            for run in started:
                if run.id not in known:
                    self.adopt(run)
            self.put_off_adoption({run: error for run, error in unreadable.items() if run not in known})

    async def _start_runs(self) -> float | None:
        """Claim and start all runs that may start now; return the seconds until the next one, None if there is none."""
        if not self._open:
            return None
        config = self._live.config  # a reload may replace it meanwhile
        try:
            await self._home.database.check_room()
            with self._fetches.claiming(config):
                claimed = await self._claimed(config)
                for run in claimed.runs:
                    self._fetches.begin(run, config)
        except NoRoomError:
            return _RETRY_AFTER
        except StoreUnavailableError as error:
            self._home.database.outage.log("[run] Runs are not started: the database cannot be written", error)
            return _RETRY_AFTER
        for run in claimed.runs:
            self._begin(run.id, self._pipeline.execute(run, config))
        if self._open:
            self._fetches.start(claimed.to_fetch, config)
        waits = [] if claimed.again_at is None else [(claimed.again_at - self._home.now()).total_seconds()]
        waits += [at - time.monotonic() for at in self._put_off.values()]
        return max(0.0, min(waits)) + 0.001 if waits else None

    async def _claimed(self, config: Config) -> Claimed:
        """Claim runs; those that cannot be claimed are put off, and do not affect the others."""
        database = self._home.database
        self._put_off = {run: at for run, at in self._put_off.items() if at > time.monotonic()}
        try:
            claimed = await database.write(partial(self._claims.claim, config, set(self._put_off)))
        except Exception as error:
            if concerns_others(error):
                raise
            await self._adopt_lost()
            claimed = await database.write(partial(self._claims.claim, config, set(self._put_off), guarded=True))
        for run in claimed.runs:
            self._home.problems.resolve(_PART, f"run {run.id}")
        self._claims.log_waits(claimed)
        for run_id, (reason, agent) in claimed.failures.items():
            self._fail(run_id, reason, agent)
        return claimed

    def _fail(self, run_id: int, error: Exception, agent: str | None = None) -> float:
        """Log and note that a run cannot be started or stopped, and put it off; return the seconds."""
        subject, problems = f"run {run_id}", self._home.problems
        pause = problems.next_pause(_PART, subject, first=_FIRST_PUT_OFF, longest=_LONGEST_PUT_OFF)
        problems.report(_PART, described(error), subject=subject, agent=agent, retry_in=pause)
        self._put_off[run_id] = time.monotonic() + pause
        _LOG.error("[run] A run cannot be started or stopped; retrying", run_id=run_id, error=described(error))
        return pause

    def adopt_later(self) -> None:
        """Have `serve` begin with adopting the runs that were started and are not under way, and with the flags."""
        self._was_interrupted = True
        self._is_flagged = True

    def adopt(self, run: Run) -> None:
        """Continue a run that an earlier daemon began."""
        self._home.problems.resolve(_PART, f"run {run.id}")
        self._begin(run.id, self._pipeline.adopt(run, self._live.config))

    def put_off_adoption(self, unreadable: Mapping[int, Exception]) -> None:
        """Note the runs of an earlier daemon that cannot be continued now, and try again later."""
        if unreadable:
            pause = min([self._fail(run_id, error) for run_id, error in unreadable.items()])
            if self._adoption is not None:
                self._adoption.cancel()
            self._adoption = asyncio.get_running_loop().call_later(pause, self._adopt_again)

    def _adopt_again(self) -> None:
        self._adopts_again = True
        self._wake.set()

    def _begin(self, run_id: int, work: Coroutine[None, None, None]) -> None:
        task = self._tasks.create_task(work, name=f"run {run_id}")
        self._under_way[run_id] = task
        task.add_done_callback(partial(self._done, run_id))

    def _done(self, run_id: int, task: asyncio.Task[None]) -> None:
        if self._under_way.get(run_id) is task:  # a run that was put back may be under way again
            del self._under_way[run_id]
            self._fetches.end(run_id)
        self._control.progress.set()

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
        try:
            flags, failures = await self._cancel_pending()
        except Exception:
            self._is_flagged = True
            raise
        if flags:  # the note tells who it was if the database is lost or restored before the end is recorded
            noting = asyncio.ensure_future(asyncio.to_thread(self._note, flags))
            hurry = any(flag.at_once for flag in flags)
            await asyncio.wait({noting}, timeout=_FLAG_TIME_AT_ONCE if hurry else _FLAG_TIME)
        for flag in flags:
            try:
                self._control.stop(flag.run_id, at_once=flag.at_once)
            except Exception as error:  # noqa: BLE001 - the others are stopped nevertheless
                failures[flag.run_id] = error
            if flag.run_id not in failures:
                self._home.problems.resolve(_PART, f"run {flag.run_id}")
        if failures:
            pause = min(self._fail(run_id, error) for run_id, error in failures.items())
            asyncio.get_running_loop().call_later(pause, self._flag_again)

    async def _cancel_pending(self) -> tuple[Collection[Flag], dict[int, Exception]]:
        """Cancel the flagged runs that wait, a few at a time; return all flags, and which runs could not be."""
        flags: dict[int, Flag] = {}
        failures: dict[int, Exception] = {}
        is_all = False
        while not is_all:
            cancelled = await self._home.database.write_patiently(lambda tx: cancel_pending(tx, self._home.now()))
            flags.update((flag.run_id, flag) for flag in cancelled.flags)
            failures.update(cancelled.failures)
            is_all = cancelled.is_all
        return flags.values(), failures

    def _note(self, flags: Iterable[Flag]) -> None:
        """Write into the runs' folders who cancelled them; one that cannot be written keeps no run from its end."""
        for flag in flags:
            try:
                self._control.note_cancellation([flag.run_id], flag.explanation)
            except Exception as error:  # noqa: BLE001 - see above
                _LOG.warning(
                    "[run] Who cancelled a run is not noted in its folder", run_id=flag.run_id, reason=str(error)
                )

    def _flag_again(self) -> None:
        self._is_flagged = True
        self._wake.set()
