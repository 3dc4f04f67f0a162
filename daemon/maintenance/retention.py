"""Retention: ended runs, fires and deleted schedules that are too old go, in short transactions beside live runs."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import structlog

from daemon.config.effective import retention_policy
from daemon.config.schema import Config
from daemon.errors import StoreUnavailableError
from daemon.maintenance.cleanup import Cleanup, tell
from daemon.maintenance.preview import Forecast, forecast
from daemon.maintenance.purge import Purge
from daemon.maintenance.timer import Progress, cadence_of, wait_until_due
from daemon.notify.outbox import Notice
from daemon.rules.retention import RetentionPolicy
from daemon.store.database import Database
from daemon.store.retention import count_expirable, database_bytes, last_sweep, note_sweep
from daemon.units import format_size
from daemon.workspaces.client import PorterError, porter
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

    def view(self) -> dict[str, Any]:
        """Return it as everybody outside sees it."""
        return dict(vars(self))


class Retention:
    """Deletes what one daemon does not keep any longer."""

    def __init__(
        self,
        database: Database,
        state_dir: Path,
        config: Config,
        cleanup: Cleanup,
        now: Callable[[], datetime],
        count: Callable[[str, Mapping[str, int], int], None],
        tell: Callable[[list[Notice]], Awaitable[None]],
    ) -> None:
        """Prepare; `count` hears how each sweep ended, what it deleted, and how many bytes it freed.

        `tell` gets what people may want to hear.
        """
        self.config = config
        self.progress: Progress | None = None
        self._database = database
        self._state_dir = state_dir
        self._cleanup = cleanup
        self._now = now
        self._count = count
        self._notify = tell
        self._one_at_a_time = asyncio.Lock()

    async def serve(self) -> None:
        """Sweep whenever the config says, and at once where a time was missed."""
        last = await self._last()
        while True:
            await wait_until_due(lambda: cadence_of(self.config.retention, self.config), last, self._now)
            last = self._now()
            try:
                await self.sweep()
            except (PorterError, OSError, StoreUnavailableError):  # it was told
                continue
            except Exception:  # noqa: BLE001 - whatever a row holds must not stop the daemon
                _LOG.exception("[retention] The sweep failed unexpectedly, and is tried again at its next time")

    async def _last(self) -> datetime:
        """Return the time after which the next sweep is due: the last one, or now where there was none."""
        now = self._now()
        try:
            last = await self._database.read(last_sweep)
        except (StoreUnavailableError, ValueError):
            return now
        return now if last is None else min(last, now)

    async def sweep(self) -> RetentionResult:
        """Delete what has expired; raise StoreUnavailableError, PorterError or OSError where that cannot go on.

        What was deleted until then stays deleted, every run wholly.
        """
        async with self._one_at_a_time:
            began, swept = time.monotonic(), RetentionResult()
            try:
                while not await self._sweep(swept):
                    _LOG.info("[retention] The config was changed; the sweep begins again by the new one")
            except BaseException as error:
                self._count("failed", swept.counts, swept.bytes_freed)
                if isinstance(error, PorterError | OSError | StoreUnavailableError):
                    _LOG.error("[retention] The sweep failed, and is tried again at its next time", error=str(error))
                    text = f"the sweep of retention failed: {error}"
                    await self._notify([Notice("retention", text, subject="retention", state="failed")])
                raise
            finally:
                self.progress = None
            swept.duration_ms = round((time.monotonic() - began) * 1000)
            self._count("skipped" if swept.skipped else "done", swept.counts, swept.bytes_freed)
        if not swept.skipped:
            freed = format_size(swept.bytes_freed)
            told = swept.counts | {"workspaces": swept.workspaces, "duration_ms": swept.duration_ms}
            _LOG.info(f"[retention] Deleted {swept.deleted} run(s)", **told, freed=freed)
        well = Notice("retention", "", subject="retention")
        done = Notice("retention", f"retention deleted {swept.deleted} run(s)", details=swept.counts)
        await self._notify([well, done] if swept.deleted else [well])
        return swept

    async def foretell(self) -> RetentionResult | Forecast:
        """Tell what a sweep would delete now; raise StoreUnavailableError, PorterError or OSError."""
        async with self._one_at_a_time:
            policy = retention_policy(self.config, self._now())
            latest = policy.latest
            if latest is None:
                return RetentionResult(skipped=True)
            return await forecast(self._database, self._state_dir, policy, latest)

    async def _sweep(self, swept: RetentionResult) -> bool:
        """Delete what has expired by the config as it is; return False if another one came meanwhile."""
        config, began = self.config, self._now()
        policy = retention_policy(config, began)
        latest = policy.latest
        if latest is None:
            _LOG.info("[retention] Skipped: retention.days is not set, and everything is kept")
            swept.skipped = swept == RetentionResult()
            return True
        await asyncio.to_thread(check_reachable, self._state_dir)
        async with self._database.aside() as aside:
            before = await aside.read(database_bytes)
            self.progress = Progress(0, await aside.read(lambda c: count_expirable(c, latest)))
            purge = Purge(self._database, aside, policy, latest)
            try:
                is_done = await self._purge(purge, self.progress, config, swept)
            except Exception:
                await self._remove_folders(policy, swept)  # they take the most room, and wait for nothing else
                raise
            swept.bytes_freed += max(0, before - await aside.read(database_bytes))
        await self._remove_folders(policy, swept)
        if is_done:
            await self._database.write(lambda tx: note_sweep(tx, began))
        return is_done

    async def _purge(self, purge: Purge, progress: Progress, config: Config, swept: RetentionResult) -> bool:
        """Delete rows, and workspaces that are in the way; return False as soon as another config is there."""
        told = time.monotonic()
        for schedule_id in await purge.schedules_with_old_fires():
            if self.config is not config:
                return False
            swept.fires += await purge.delete_fires(schedule_id)
        released: list[tuple[int, int]] = []
        async for some in purge.candidates():
            found = await purge.delete_runs(some)
            released += found.released
            swept.deleted += len(found.gone)
            progress.done = swept.deleted
            if self.config is not config:
                return False
            if time.monotonic() - told > _TELL_EVERY:
                told = time.monotonic()
                _LOG.info("[retention] Deleting old runs", deleted=progress.done, expected=progress.total)
        swept.schedules = await purge.delete_schedules()
        await purge.give_back()
        for lowest, run_id in released:
            if self.config is not config:
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
        async with porter(self._state_dir, tell) as helper:
            expired = cutoff.text if cutoff else None
            done = await helper.do("remove_orphans", expired=expired, dry_run=False)
        swept.folders += done["folders"]
        swept.bytes_freed += done["bytes"]
