"""Retention: deletes ended runs, fires and deleted schedules that are too old, in short transactions."""

import asyncio
import time
from collections.abc import Awaitable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import TypeVar

import structlog

from daemon.config.effective import retention_policy
from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.errors import RefusedError, StoreDamagedError, StoreUnavailableError
from daemon.maintenance.preview import Forecast, forecast
from daemon.maintenance.purge import Purge
from daemon.maintenance.timer import Progress, cadence_of, wait_until_due
from daemon.maintenance.workspace_removal import WorkspaceRemoval
from daemon.metrics import Metrics
from daemon.notify.outbox import Notice, Outbox
from daemon.problems import described, standing_loop
from daemon.rules.cadence import Cadence
from daemon.rules.clock_trust import ClockTrust
from daemon.rules.retention import RetentionPolicy
from daemon.store.connection import concerns_others
from daemon.store.home import Home, note_clock_trust
from daemon.store.retention import Expired, count_expirable, database_bytes, last_sweep, note_sweep
from daemon.text import plural
from daemon.units import format_size
from daemon.workspaces.client import WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import RemoveOrphans
from daemon.workspaces.run_folders import check_reachable

T = TypeVar("T")
_IF_RIGHT = "if it is right, `agentcron retention run --trust-clock` deletes what is too old now"
_LOG = structlog.get_logger()
_PART, _SWEEP = "retention", "sweep"
_LOG_EVERY = 10.0  # seconds
_NOTE_CLOCK_EVERY = 3600.0  # seconds
_RECHECK = 600.0  # seconds until a clock that seems wrong is checked again


@dataclass
class RetentionResult:
    """What one sweep deleted."""

    deleted: int = 0
    skipped: bool = False
    fires: int = 0
    schedules: int = 0
    workspaces: int = 0
    folders: int = 0
    bytes_freed: int = 0
    duration_ms: int = 0

    @property
    def counts(self) -> dict[str, int]:
        """The numbers of deleted things by kind, as the metrics name them."""
        return {"runs": self.deleted, "fires": self.fires, "schedules": self.schedules, "folders": self.folders}


class Retention:
    """Deletes the expired history of one daemon."""

    def __init__(
        self, home: Home, live: LiveConfig, removal: WorkspaceRemoval, metrics: Metrics, outbox: Outbox
    ) -> None:
        self.progress: Progress | None = None
        self._home = home
        self._live = live
        self._removal = removal
        self._metrics = metrics
        self._outbox = outbox
        self._one_at_a_time = asyncio.Lock()
        self._last_swept: datetime | None = None
        self._clock = home.clock_trust
        self._clock_checked = time.clock_gettime(time.CLOCK_BOOTTIME)
        self._failed: set[str] = set()
        """What the last sweep could not delete."""

    async def serve(self) -> None:
        """Sweep when the config says, and at once if a sweep was missed."""
        await standing_loop(_PART, self._home.problems, self._sweep_when_due)

    async def _sweep_when_due(self) -> None:
        if self._last_swept is None:
            self._last_swept = await self._last()
        await self._check_clock()
        try:
            async with asyncio.timeout(_NOTE_CLOCK_EVERY):
                await wait_until_due(self._cadence, self._last_swept, self._home.now)
        except TimeoutError:
            return
        if not await self._trusts_clock():
            self._last_swept = None
            await asyncio.sleep(_RECHECK)
            return
        self._last_swept = self._home.now()
        try:
            await self.sweep()
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - no content of a row may stop the daemon
            self._home.problems.report(_PART, described(error), subject=_SWEEP)
            if not isinstance(error, WorkspaceHelperError | OSError | StoreUnavailableError):  # logged by `sweep`
                _LOG.exception("[retention] The sweep failed unexpectedly, will retry at the next scheduled time")

    async def clock_doubt(self) -> str | None:
        """Return why the clock may be wrong, so that all history would seem old.

        None if nothing says so, or if nothing is ever deleted.
        """
        reason = (await self._check_clock()).doubt(self._home.now())
        return reason if retention_policy(self._live.config, self._home.now()).latest is not None else None

    async def _trusts_clock(self) -> bool:
        """Return whether the clock may be right; if it may not, report that."""
        reason = await self.clock_doubt()
        if reason is None:
            return True
        if self._home.problems.report(_PART, reason, subject=_SWEEP, retry_in=_RECHECK) == 1:
            fix = f"set the clock; {_IF_RIGHT}"
            _LOG.error("[retention] Nothing is deleted for a day: the clock may be wrong", reason=reason, fix=fix)
        return False

    async def _check_clock(self) -> ClockTrust:
        """Compare the wall clock with what is known about it, and record that for the next daemon."""
        boottime = time.clock_gettime(time.CLOCK_BOOTTIME)
        elapsed = timedelta(seconds=boottime - self._clock_checked)
        known, self._clock_checked = self._clock.after(self._home.now(), elapsed), boottime
        self._clock = known
        await self._home.database.write_if_possible(lambda tx: note_clock_trust(tx, known))
        return known

    def _cadence(self) -> Cadence:
        return cadence_of(self._live.config.retention, self._live.config)

    async def _last(self) -> datetime:
        """Return the time of the last sweep, now if there was none."""
        now = self._home.now()
        try:
            last = await self._home.database.read(last_sweep)
        except (StoreUnavailableError, ValueError):
            return now
        return now if last is None else min(last, now)

    async def sweep_on_request(self, *, trust_clock: bool) -> RetentionResult:
        """Sweep because a person wants it; raise what `sweep` raises, and RefusedError while the clock may be wrong.

        Somebody who knows that it is right says so with `trust_clock`.
        """
        doubt = None if trust_clock else await self.clock_doubt()
        if doubt is not None:
            raise RefusedError(
                f"nothing was deleted, since history may seem older than it is: {doubt}; set the clock; {_IF_RIGHT} "
                "(in the API: trust_clock)"
            )
        return await self.sweep()

    async def sweep(self) -> RetentionResult:
        """Delete what has expired; raise StoreUnavailableError, WorkspaceHelperError or OSError if that fails.

        Deletions up to a failure stand, and no run is half deleted.
        """
        async with self._one_at_a_time:
            began, result = time.monotonic(), RetentionResult()
            self._failed = set()
            try:
                while not await self._sweep(result):
                    _LOG.info("[retention] The config has changed; restarting the sweep")
            except BaseException as error:
                self._metrics.swept("failed", result.counts, result.bytes_freed)
                if isinstance(error, WorkspaceHelperError | OSError | StoreUnavailableError):
                    _LOG.error("[retention] The sweep failed, will retry at the next scheduled time", error=str(error))
                    text = f"the retention sweep failed: {error}"
                    notice = Notice(
                        "retention", text, subject="retention", state="failed", details={"error": str(error)}
                    )
                    await self._outbox.post(self._home, [notice])
                raise
            finally:
                self.progress = None
            self._home.problems.keep_only(_PART, self._failed)
            result.duration_ms = round((time.monotonic() - began) * 1000)
            self._metrics.swept("skipped" if result.skipped else "done", result.counts, result.bytes_freed)
        if not result.skipped:
            freed = format_size(result.bytes_freed)
            keys = result.counts | {"workspaces": result.workspaces, "duration_ms": result.duration_ms}
            _LOG.info(f"[retention] Deleted {plural(result.deleted, 'run')}", **keys, freed=freed)
        healthy = Notice("retention", "", subject="retention")
        done = Notice("retention", f"retention deleted {plural(result.deleted, 'run')}", details=result.counts)
        await self._outbox.post(self._home, [healthy, done] if result.deleted else [healthy])
        return result

    async def forecast(self) -> RetentionResult | Forecast:
        """Return what a sweep would delete now; raise StoreUnavailableError, WorkspaceHelperError or OSError."""
        async with self._one_at_a_time:
            policy = retention_policy(self._live.config, self._home.now())
            latest = policy.latest
            if latest is None:
                return RetentionResult(skipped=True)
            return await forecast(self._home.database, self._home.state_dir, policy, latest)

    async def _sweep(self, result: RetentionResult) -> bool:
        """Delete what has expired by the config in force; return False if a reload replaced it meanwhile."""
        config, began = self._live.config, self._home.now()
        policy = retention_policy(config, began)
        latest = policy.latest
        if latest is None:
            _LOG.info("[retention] Skipped: retention.days is not set, so everything is kept")
            result.skipped = result == RetentionResult()
            return True
        await asyncio.to_thread(check_reachable, self._home.state_dir)
        async with self._home.database.aside() as aside:
            before = await aside.read(database_bytes)
            self.progress = Progress(0, await aside.read(lambda c: count_expirable(c, latest)))
            purge = Purge(self._home.database, aside, policy, latest)
            try:
                is_done = await self._purge(purge, self.progress, config, result)
            except StoreDamagedError:
                raise  # what such a database says about runs must not decide which folders are removed
            except Exception:
                await self._remove_folders(policy, result)  # they take the most space, and depend on nothing else
                raise
            result.bytes_freed += max(0, before - await aside.read(database_bytes))
        await self._remove_folders(policy, result)
        if is_done:
            await self._home.database.write(lambda tx: note_sweep(tx, began))
        return is_done

    async def _purge(self, purge: Purge, progress: Progress, config: Config, result: RetentionResult) -> bool:
        """Delete rows, and workspaces of expired runs; return False as soon as a reload has replaced the config."""
        logged = time.monotonic()
        for schedule_id in await purge.schedules_with_old_fires():
            if self._live.config is not config:
                return False
            result.fires += await self._isolated(f"schedule {schedule_id}", purge.delete_fires(schedule_id)) or 0
        released: list[tuple[int, int]] = []
        async for batch in purge.candidates():
            found = await self._delete_runs(purge, batch)
            released += found.released
            result.deleted += len(found.gone)
            progress.done = result.deleted
            if self._live.config is not config:
                return False
            if time.monotonic() - logged > _LOG_EVERY:
                logged = time.monotonic()
                _LOG.info("[retention] Deleting old runs", deleted=progress.done, expected=progress.total)
        result.schedules = await purge.delete_schedules()
        await purge.give_back()
        for lowest, run_id in released:
            if self._live.config is not config:
                return False
            if (lowest, run_id) in (await purge.expired([lowest])).released:  # it may have been retried meanwhile
                result.workspaces += await self._release(run_id)
        return True

    async def _delete_runs(self, purge: Purge, batch: list[int]) -> Expired:
        """Delete the expired ones of some runs; if that fails, delete them one by one, without the one that fails."""
        try:
            return await purge.delete_runs(batch)
        except Exception as error:
            if concerns_others(error):
                raise
        together = Expired()
        for number in batch:
            found = await self._isolated(f"run {number}", purge.delete_runs([number]))
            if found is not None:
                together.gone += found.gone
                together.released += found.released
        return together

    async def _isolated(self, subject: str, work: Awaitable[T]) -> T | None:
        """Return the result of work on one thing, None if it fails, which does not stop the sweep."""
        try:
            return await work
        except Exception as error:
            if concerns_others(error):
                raise
            self._failed.add(subject)
            self._home.problems.report(_PART, described(error), subject=subject)
            _LOG.exception("[retention] ERROR: Cannot delete what has expired; it is skipped", subject=subject)
            return None

    async def _release(self, run_id: int) -> bool:
        """Save and remove the workspace of a run; return whether it was removed. A failure does not stop the sweep."""
        try:
            return await self._removal.release(run_id) is None
        except StoreDamagedError:
            raise
        except Exception:  # noqa: BLE001 - nothing that agents leave there may stop the sweep
            _LOG.exception("[retention] ERROR: Failed to remove a workspace", run_id=run_id)
            return False

    async def _remove_folders(self, policy: RetentionPolicy, result: RetentionResult) -> None:
        cutoff = policy.general.cutoff
        async with workspace_helper(self._home.state_dir) as helper:
            expired = cutoff.text if cutoff else None
            done = await helper.remove_orphans(RemoveOrphans(expired, dry_run=False))
        result.folders += done.folders
        result.bytes_freed += done.bytes
