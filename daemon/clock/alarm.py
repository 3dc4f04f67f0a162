"""The alarm: wakes up when the next start is due and decides all due times that have come.

Schedules are read from the database. APScheduler only provides the wake-up: it holds one job and knows no schedule.
"""

import asyncio
import contextlib
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from functools import partial

import structlog
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from daemon.access import Access, Claim, Standing
from daemon.allowance import Kind
from daemon.config.live import LiveConfig
from daemon.errors import NoRoomError, StoreUnavailableError
from daemon.fires.decision import RETRY_AFTER, Decided, Present, decide_due
from daemon.fires.ledger import Fire
from daemon.metrics import Metrics
from daemon.model import FireOutcome, WakeTime
from daemon.notify.outbox import Outbox
from daemon.problems import standing_loop
from daemon.store.changes import Changes
from daemon.store.connection import concerns_others
from daemon.store.database import Database
from daemon.store.home import Home
from daemon.store.schedules import next_wake
from daemon.units import format_instant

_LOG = structlog.get_logger()
_ALARM = "alarm"
_BATCH = 100  # schedules decided in one transaction
_WAKE_EARLY = timedelta(seconds=1)  # a long sleep ends that much earlier, because the kernel may oversleep
_RETRY_AFTER = timedelta(seconds=2)


class Clock:
    """Wakes up at each start and decides due times."""

    def __init__(self, home: Home, live: LiveConfig, access: Access, outbox: Outbox, metrics: Metrics) -> None:
        self._home = home
        self._live = live
        self._access = access
        self._outbox = outbox
        self._metrics = metrics
        self._wake = asyncio.Event()
        self._scheduler = AsyncIOScheduler(
            timezone=UTC, job_defaults={"misfire_grace_time": None, "coalesce": True, "max_instances": 1}
        )
        home.database.on_commit(self._committed)
        live.on_change(self._wake.set)

    def _committed(self, changes: Changes) -> None:
        """Re-arm after a commit by another part; this clock's own decisions return the next start."""
        if changes.labels("schedule") or changes.labels("clock"):
            self._wake.set()

    async def serve(self) -> None:
        """Decide due times as they come until the task is cancelled."""
        self._scheduler.start()
        try:
            await standing_loop("clock", self._home.problems, self._decide_and_arm, lambda _: self._wake.wait())
        finally:
            self._scheduler.shutdown(wait=False)

    async def _decide_and_arm(self) -> None:
        self._wake.clear()
        self._arm(await self.decide())

    async def decide_overdue(self) -> None:
        """Decide due times up to now, so that a change that follows affects later ones only."""
        wake = await self._home.database.read(next_wake)
        if wake is not None and wake <= self._home.now():
            await self.decide()

    async def decide(self) -> datetime | None:
        """Decide all due times that have come; return the instant of the next start, None without one."""
        try:
            await self._home.database.check_room()
            await self._home.database.catch_up()
            standings: dict[Claim, Standing] = {}
            unanswered: set[Claim] = set()
            while True:
                present = replace(self._present(), standings=standings, unanswered=frozenset(unanswered))
                decided = await decide_some(self._home.database, present, self._outbox, _BATCH)
                for schedule, reason in decided.failures:
                    self._report(schedule, reason)
                for fire in decided.fires:
                    self._home.problems.resolve("clock", f"{fire.agent}/{fire.schedule}")
                    self._record_metrics(fire)
                    _log(fire)
                for creator, size in decided.started.items():
                    self._home.allowance.use(creator, size, Kind.FIRES)
                if decided.unknown:
                    standings |= await self._access.standings(decided.unknown)
                    unanswered |= decided.unknown - standings.keys()
                if decided.next_wake is None or decided.next_wake > self._home.now():
                    return decided.next_wake
        except NoRoomError:
            return self._home.now() + _RETRY_AFTER
        except StoreUnavailableError as error:
            self._home.database.outage.log("[clock] Due times cannot be recorded, so nothing is started", error)
            return self._home.now() + _RETRY_AFTER

    def _report(self, schedule: str, reason: str) -> None:
        _LOG.error("[clock] Due times cannot be decided", schedule=schedule, reason=reason)
        agent, seconds = schedule.partition("/")[0], RETRY_AFTER.total_seconds()
        self._home.problems.report("clock", reason, subject=schedule, agent=agent, retry_in=seconds)

    def _present(self) -> Present:
        config, started = self._live.config, self._home.started
        return Present(
            WakeTime(self._home.now()),
            started,
            frozenset(config.agents),
            self._home.instance,
            self._live.budgets,
            self._live.skipping,
            used=self._home.allowance.used(Kind.FIRES),
        )

    def _record_metrics(self, fire: Fire) -> None:
        if fire.run_id is not None:
            self._metrics.late(fire.late)

    def _arm(self, wake_at: datetime | None) -> None:
        """Set the alarm to an instant, or shortly before it if it is far away; None removes the alarm."""
        if wake_at is None:
            with contextlib.suppress(LookupError):
                self._scheduler.remove_job(_ALARM)
            return
        if wake_at - self._home.now() > 2 * _WAKE_EARLY:
            wake_at -= _WAKE_EARLY
        self._scheduler.add_job(self._ring, "date", run_date=wake_at, id=_ALARM, replace_existing=True)

    async def _ring(self) -> None:
        self._wake.set()


async def decide_some(database: Database, present: Present, outbox: Outbox, schedules: int) -> Decided:
    """Decide the due times of up to `schedules` schedules in one transaction.

    One that cannot be decided does not affect the others. Raise StoreUnavailableError if nothing can be recorded.
    """
    decide = partial(decide_due, present=present, outbox=outbox, schedules=schedules)
    try:
        return await database.write(decide)
    except Exception as error:
        if concerns_others(error):
            raise
        return await database.write(partial(decide, guarded=True))


def _log(fire: Fire) -> None:
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
        _LOG.info("[clock] Fired", **keys)
        return
    if fire.creator is not None:  # the lines about all of their schedules count together
        keys["creator"] = fire.creator
    _LOG.warning("[clock] Fire skipped", **keys)
