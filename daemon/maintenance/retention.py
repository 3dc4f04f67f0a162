"""Retention: ended runs, fires and deleted schedules that are too old go, in short transactions beside live runs."""

import asyncio
import time
from dataclasses import dataclass
from datetime import datetime

import structlog

from daemon.config.effective import retention_policy
from daemon.config.live import LiveConfig
from daemon.config.schema import Config
from daemon.errors import StoreUnavailableError
from daemon.maintenance.cleanup import Cleanup
from daemon.maintenance.preview import Forecast, forecast
from daemon.maintenance.purge import Purge
from daemon.maintenance.timer import Progress, cadence_of, wait_until_due
from daemon.metrics import Metrics
from daemon.notify.outbox import Notice, Outbox
from daemon.rules.cadence import Cadence
from daemon.rules.retention import RetentionPolicy
from daemon.store.home import Home
from daemon.store.retention import count_expirable, database_bytes, last_sweep, note_sweep
from daemon.text import plural
from daemon.units import format_size
from daemon.workspaces.client import WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import RemoveOrphans
from daemon.workspaces.run_folders import check_reachable

_LOG = structlog.get_logger()
_TELL_EVERY = 10.0  # seconds


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
        """How much of each kind."""
        return {"runs": self.deleted, "fires": self.fires, "schedules": self.schedules, "folders": self.folders}


class Retention:
    """Deletes what one daemon does not keep any longer."""

    def __init__(self, home: Home, live: LiveConfig, cleanup: Cleanup, metrics: Metrics, outbox: Outbox) -> None:
        self.progress: Progress | None = None
        self._home = home
        self._live = live
        self._cleanup = cleanup
        self._metrics = metrics
        self._outbox = outbox
        self._one_at_a_time = asyncio.Lock()

    async def serve(self) -> None:
        """Sweep whenever the config says, and at once where a time was missed."""
        last = await self._last()
        while True:
            await wait_until_due(self._cadence, last, self._home.now)
            last = self._home.now()
            try:
                await self.sweep()
            except (WorkspaceHelperError, OSError, StoreUnavailableError):  # logged where it was raised
                continue
            except Exception:  # noqa: BLE001 - whatever a row holds must not stop the daemon
                _LOG.exception("[retention] The sweep failed unexpectedly, will retry at its next time")

    def _cadence(self) -> Cadence:
        return cadence_of(self._live.config.retention, self._live.config)

    async def _last(self) -> datetime:
        """Return the time after which the next sweep is due: the last one, or now where there was none."""
        now = self._home.now()
        try:
            last = await self._home.database.read(last_sweep)
        except (StoreUnavailableError, ValueError):
            return now
        return now if last is None else min(last, now)

    async def sweep(self) -> RetentionResult:
        """Delete what has expired; raise StoreUnavailableError, WorkspaceHelperError or OSError if that fails.

        What was deleted until then stays deleted, and no run is half deleted.
        """
        async with self._one_at_a_time:
            began, swept = time.monotonic(), RetentionResult()
            try:
                while not await self._sweep(swept):
                    _LOG.info("[retention] The config was changed; the sweep restarts with the new one")
            except BaseException as error:
                self._metrics.swept("failed", swept.counts, swept.bytes_freed)
                if isinstance(error, WorkspaceHelperError | OSError | StoreUnavailableError):
                    _LOG.error("[retention] The sweep failed, will retry at its next time", error=str(error))
                    text = f"the retention sweep failed: {error}"
                    notice = Notice("retention", text, subject="retention", state="failed")
                    await self._outbox.post(self._home, [notice])
                raise
            finally:
                self.progress = None
            swept.duration_ms = round((time.monotonic() - began) * 1000)
            self._metrics.swept("skipped" if swept.skipped else "done", swept.counts, swept.bytes_freed)
        if not swept.skipped:
            freed = format_size(swept.bytes_freed)
            told = swept.counts | {"workspaces": swept.workspaces, "duration_ms": swept.duration_ms}
            _LOG.info(f"[retention] Deleted {plural(swept.deleted, 'run')}", **told, freed=freed)
        healthy = Notice("retention", "", subject="retention")
        done = Notice("retention", f"retention deleted {plural(swept.deleted, 'run')}", details=swept.counts)
        await self._outbox.post(self._home, [healthy, done] if swept.deleted else [healthy])
        return swept

    async def foretell(self) -> RetentionResult | Forecast:
        """Tell what a sweep would delete now; raise StoreUnavailableError, WorkspaceHelperError or OSError."""
        async with self._one_at_a_time:
            policy = retention_policy(self._live.config, self._home.now())
            latest = policy.latest
            if latest is None:
                return RetentionResult(skipped=True)
            return await forecast(self._home.database, self._home.state_dir, policy, latest)

    async def _sweep(self, swept: RetentionResult) -> bool:
        """Delete what has expired by the config as it is; return False if another one came meanwhile."""
        config, began = self._live.config, self._home.now()
        policy = retention_policy(config, began)
        latest = policy.latest
        if latest is None:
            _LOG.info("[retention] Skipped: retention.days is not set, so everything is kept")
            swept.skipped = swept == RetentionResult()
            return True
        await asyncio.to_thread(check_reachable, self._home.state_dir)
        async with self._home.database.aside() as aside:
            before = await aside.read(database_bytes)
            self.progress = Progress(0, await aside.read(lambda c: count_expirable(c, latest)))
            purge = Purge(self._home.database, aside, policy, latest)
            try:
                is_done = await self._purge(purge, self.progress, config, swept)
            except Exception:
                await self._remove_folders(policy, swept)  # they take the most room, and wait for nothing else
                raise
            swept.bytes_freed += max(0, before - await aside.read(database_bytes))
        await self._remove_folders(policy, swept)
        if is_done:
            await self._home.database.write(lambda tx: note_sweep(tx, began))
        return is_done

    async def _purge(self, purge: Purge, progress: Progress, config: Config, swept: RetentionResult) -> bool:
        """Delete rows, and workspaces that are in the way; return False as soon as another config is there."""
        told = time.monotonic()
        for schedule_id in await purge.schedules_with_old_fires():
            if self._live.config is not config:
                return False
            swept.fires += await purge.delete_fires(schedule_id)
        released: list[tuple[int, int]] = []
        async for some in purge.candidates():
            found = await purge.delete_runs(some)
            released += found.released
            swept.deleted += len(found.gone)
            progress.done = swept.deleted
            if self._live.config is not config:
                return False
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                _LOG.info("[retention] Deleting old runs", deleted=progress.done, expected=progress.total)
        swept.schedules = await purge.delete_schedules()
        await purge.give_back()
        for lowest, run_id in released:
            if self._live.config is not config:
                return False
            if (lowest, run_id) in (await purge.look([lowest])).released:  # somebody may have tried it again meanwhile
                swept.workspaces += await self._released(run_id)
        return True

    async def _released(self, run_id: int) -> bool:
        """Save and remove the workspace of a run; return whether it is gone. One that fails stops no other."""
        try:
            return await self._cleanup.release(run_id) is None
        except Exception:  # noqa: BLE001 - whatever agents put there
            _LOG.exception("[retention] ERROR: Failed to remove a workspace", run_id=run_id)
            return False

    async def _remove_folders(self, policy: RetentionPolicy, swept: RetentionResult) -> None:
        cutoff = policy.general.cutoff
        async with workspace_helper(self._home.state_dir) as helper:
            expired = cutoff.text if cutoff else None
            done = await helper.remove_orphans(RemoveOrphans(expired, dry_run=False))
        swept.folders += done.folders
        swept.bytes_freed += done.bytes
