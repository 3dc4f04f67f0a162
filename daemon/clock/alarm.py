"""The clock: one alarm for the earliest start, and a watch that notices when the wall clock jumps.

APScheduler only wakes the daemon up; which due times have come is decided from the database.
"""

import asyncio
import contextlib
import os
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from daemon.clock.timerfd import acknowledge, open_clock_watch
from daemon.errors import NoRoomError, StoreUnavailableError
from daemon.fires.decision import Claim, Decided, Fire, Present, decide_due
from daemon.fires.rewind import step_back
from daemon.model import FireOutcome, WakeTime
from daemon.store.database import Database
from daemon.store.schedules import UNDECIDABLE
from daemon.units import format_instant

_LOG = structlog.get_logger()
_ALARM = "alarm"
_BATCH = 100  # schedules decided in one transaction
_LAST_STRETCH = timedelta(seconds=1)  # a longer sleep ends that much earlier, because the kernel may oversleep it
_RETRY_AFTER = timedelta(seconds=2)
_HEARTBEAT = 5.0  # seconds
_JUMP = 1.0  # seconds by which wall clock and monotonic time may drift apart between two heartbeats


class Clock:
    """Wakes up at each start, has due times decided, and reports them."""

    def __init__(
        self,
        database: Database,
        present: Callable[[WakeTime], Present],
        now: Callable[[], datetime],
        fired: Callable[[list[Fire]], Awaitable[None]],
        look_up: Callable[[set[Claim]], Awaitable[dict[Claim, bool]]],
    ) -> None:
        self._look_up = look_up
        self._database = database
        self._present = present
        self._now = now
        self._fired = fired
        self._wake = asyncio.Event()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )

    def changed(self) -> None:
        """Look at the schedules again: one of them was changed."""
        self._wake.set()

    async def serve(self) -> None:
        """Decide due times as they come until the task is cancelled."""
        self._scheduler.start()
        try:
            while True:
                self._wake.clear()
                self._arm(await self.decide())
                await self._wake.wait()
        finally:
            self._scheduler.shutdown(wait=False)

    async def watch(self) -> None:
        """Notice jumps of the wall clock and suspends: within a few seconds, at once where the kernel tells of them."""
        offset = _wall_minus_monotonic()
        with _clock_set() as was_set:
            while True:
                with contextlib.suppress(TimeoutError):
                    async with asyncio.timeout(_HEARTBEAT):
                        await was_set.wait()
                was_set.clear()
                jump = _wall_minus_monotonic() - offset
                if abs(jump) > _JUMP:
                    offset += jump
                    await self.jumped(timedelta(seconds=jump))

    async def jumped(self, by: timedelta) -> None:
        """Compute everything anew after a jump of the wall clock."""
        _LOG.warning("[clock] The wall clock jumped; alarms are computed anew", seconds=round(by.total_seconds(), 3))
        shortened = await self._database.write_patiently(lambda tx: step_back(tx, self._now()))
        if shortened:
            _LOG.warning("[clock] Due times that were missed under a clock ahead are open again", schedules=shortened)
        self.changed()
        await self._fired([])

    async def decide(self) -> datetime | None:
        """Decide all that is due; return the instant of the next start."""
        try:
            await self._database.check_room()
            rights: dict[Claim, bool] = {}
            unanswered: set[Claim] = set()
            while True:
                present = self._present(WakeTime(self._now()))
                present = replace(present, rights=rights, unanswered=frozenset(unanswered))
                decided = await decide_some(self._database, present, _BATCH)
                for schedule, reason in decided.troubles:
                    _LOG.error("[clock] Due times cannot be decided", schedule=schedule, reason=reason)
                if decided.fires:
                    _log(decided.fires)
                    await self._fired(decided.fires)
                if decided.unknown:
                    rights |= await self._look_up(decided.unknown)
                    unanswered |= decided.unknown - rights.keys()
                if decided.next_wake is None or decided.next_wake > self._now():
                    return decided.next_wake
        except NoRoomError:
            return self._now() + _RETRY_AFTER
        except StoreUnavailableError as error:
            _LOG.error("[clock] Due times cannot be recorded, so nothing is started", error=str(error))
            return self._now() + _RETRY_AFTER

    def _arm(self, wake_at: datetime | None) -> None:
        """Have the scheduler set the event at an instant, or shortly before one that is far away."""
        if wake_at is None:
            with contextlib.suppress(LookupError):
                self._scheduler.remove_job(_ALARM)
            return
        if wake_at - self._now() > 2 * _LAST_STRETCH:
            wake_at -= _LAST_STRETCH
        self._scheduler.add_job(self._ring, "date", run_date=wake_at, id=_ALARM, replace_existing=True)

    async def _ring(self) -> None:
        self._wake.set()


async def decide_some(database: Database, present: Present, schedules: int) -> Decided:
    """Decide the due times of some schedules in one transaction; one that cannot be decided stops no other.

    Raise StoreUnavailableError if they cannot be recorded.
    """
    decide = partial(decide_due, present=present, schedules=schedules)
    try:
        return await database.write(decide)
    except UNDECIDABLE:
        return await database.write(partial(decide, guarded=True))


@contextlib.contextmanager
def _clock_set() -> Iterator[asyncio.Event]:
    """Give an event that the kernel sets when the wall clock is set; without timerfd nobody sets it."""
    event = asyncio.Event()
    try:
        descriptor = open_clock_watch()
    except OSError as error:
        _LOG.info("[clock] No timerfd here; the heartbeat alone notices jumps", reason=error.strerror)
        yield event
        return

    def note() -> None:
        acknowledge(descriptor)
        event.set()

    loop = asyncio.get_running_loop()
    loop.add_reader(descriptor, note)
    try:
        yield event
    finally:
        loop.remove_reader(descriptor)
        os.close(descriptor)


def _wall_minus_monotonic() -> float:
    """Return a figure that changes when the wall clock is set, and in a suspend, where the other clock stands still."""
    return time.clock_gettime(time.CLOCK_REALTIME) - time.monotonic()


def _log(fires: list[Fire]) -> None:
    for fire in fires:
        keys: dict[str, object] = {
            "agent": fire.agent,
            "schedule": f"{fire.agent}/{fire.schedule}",
            "due": format_instant(fire.due),
            "outcome": str(fire.outcome),
        }
        if fire.run_id is not None:
            keys["run_id"] = fire.run_id
        if fire.reason:
            keys["reason"] = fire.reason
        if fire.count > 1:
            keys["count"] = fire.count
        if fire.outcome in {FireOutcome.LAUNCHED, FireOutcome.BUFFERED}:
            keys["late_ms"] = int(fire.late.total_seconds() * 1000)
            _LOG.info("[clock] Due", **keys)
        else:
            _LOG.warning("[clock] Due time not started", **keys)
