"""Removes the workspaces that the policy does not keep, one by one in a helper process, after saving their work."""

import asyncio
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import structlog

from daemon.config.effective import policy_of
from daemon.config.live import LiveConfig
from daemon.errors import StoreDamagedError, StoreUnavailableError
from daemon.maintenance.mirrors import MirrorMaintenance
from daemon.maintenance.timer import Progress, cadence_of, wait_until_due
from daemon.maintenance.workspace_removal import REMOVED_BY_OTHERS, WorkspaceRemoval
from daemon.maintenance.workspace_selection import WorkspaceSelection
from daemon.maintenance.workspace_survey import WorkspaceSurvey
from daemon.model import ACTIVE, RunStatus
from daemon.notify.outbox import Notice, Outbox
from daemon.problems import described, standing_loop
from daemon.rules.cadence import Cadence
from daemon.store.changes import Changes
from daemon.store.home import Home
from daemon.store.workspaces import Workspace, present_workspaces, set_saved_bytes, unmeasured_saved_work
from daemon.text import plural
from daemon.workspaces.client import WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import MeasureSavedWork
from daemon.workspaces.layout import ENVIRONMENTS, RUNS
from daemon.workspaces.removal import TRASH

_LOG = structlog.get_logger()
_PART, _SWEEP = "cleanup", "sweep"
_MOST_MEASURED = 1000  # runs whose saved work one sweep measures
_DELAY = 1.0  # seconds from the end of a run to the sweep, so that runs that end together need only one


@dataclass
class CleanupResult:
    """What one sweep removed, or would remove."""

    removed: list[int] = field(default_factory=list)
    failed: dict[int, str] = field(default_factory=dict)
    dry_run: bool = False

    def notices(self) -> list[Notice]:
        """Return a notice of the result, none if nothing was done."""
        if not self.removed and not self.failed:
            return []
        text = f"removed {plural(len(self.removed), 'workspace')}, {len(self.failed)} failed"
        failed = [{"run_id": run, "reason": reason} for run, reason in self.failed.items()]
        details = {"removed": self.removed, "failed": failed}
        if self.removed:
            return [Notice("cleanup", text, details=details)]
        return [Notice("cleanup", text, subject="cleanup", state=str(sorted(self.failed)), details=details)]


class Cleanup:
    """Cleans up the workspaces of one daemon."""

    def __init__(
        self, home: Home, live: LiveConfig, outbox: Outbox, mirrors: MirrorMaintenance, removal: WorkspaceRemoval
    ) -> None:
        self.progress: Progress | None = None
        self._home = home
        self._live = live
        self._outbox = outbox
        self._mirrors = mirrors
        self._removal = removal
        self._selection = WorkspaceSelection(home, live)
        self._one_at_a_time = asyncio.Lock()
        self._failed: set[str] = set()
        """What the last sweep could not record."""
        self._run_ended = asyncio.Event()
        home.database.on_commit(self._committed)

    def _committed(self, changes: Changes) -> None:
        """Wake up when a run has ended, to measure its workspace and to check the quotas."""
        if any(change.before is not RunStatus.PENDING and change.after not in ACTIVE for change in changes.statuses):
            self._run_ended.set()

    async def serve(self) -> None:
        """Sweep at the start, when the config says, and soon after the end of a run if a quota is set."""
        await standing_loop(_PART, self._home.problems, self._sweep_safely, lambda _: self._next_time(self._home.now()))

    async def _sweep_safely(self) -> None:
        try:
            await self.sweep()
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - nothing that agents leave there may stop the daemon
            self._home.problems.report(_PART, described(error), subject=_SWEEP)
            if isinstance(error, WorkspaceHelperError | OSError | StoreUnavailableError):
                _LOG.error("[cleanup] The cleanup failed, will retry at the next scheduled time", error=str(error))
            else:
                _LOG.exception("[cleanup] The cleanup failed unexpectedly, will retry at the next scheduled time")

    async def _next_time(self, last: datetime) -> None:
        """Wait for the next scheduled time after the last sweep, or for the end of a run if a quota is set."""
        while not await wait_until_due(self._cadence, last, self._home.now, self._run_ended):
            await asyncio.sleep(_DELAY)
            if any(policy_of(self._live.config, name).quota for name in self._live.config.environments):
                return
            await self._measure_new()

    async def _measure_new(self) -> None:
        """Measure the workspaces of ended runs that have not been measured yet."""
        present = await self._home.database.read(present_workspaces)
        new = [one for one in present if one.bytes is None and one.status not in ACTIVE]
        if not new:
            return
        try:
            async with workspace_helper(self._home.state_dir) as helper:
                await WorkspaceSurvey(self._home, helper).measure(new)
        except (WorkspaceHelperError, OSError) as error:
            _LOG.error("[cleanup] Cannot measure workspaces, will retry", error=str(error))

    def _cadence(self) -> Cadence:
        return cadence_of(self._live.config.cleanup, self._live.config)

    async def sweep(self, *, older_than: timedelta | None = None, dry_run: bool = False) -> CleanupResult:
        """Remove the workspaces that the policy does not keep.

        `older_than` overrides the environments' max_age; a dry run only returns what it would remove. Raise
        WorkspaceHelperError, OSError or StoreUnavailableError.
        """
        result = CleanupResult(dry_run=dry_run)
        if dry_run:
            for workspace in await self._selection.now_removable(older_than, ()):
                if workspace.note is None:
                    result.removed.append(workspace.run_id)
                else:
                    result.failed[workspace.run_id] = f"at the last attempt, {workspace.note}"
            return result
        async with self._one_at_a_time:
            await self._sweep_all(older_than, result)
        self._mirrors.wake()
        if result.removed:
            _LOG.info(f"[cleanup] Removed {len(result.removed)} old task workspace(s)")
        if notices := [*self._selection.quotas.values(), *result.notices()]:
            await self._outbox.post(self._home, notices)
        return result

    async def _sweep_all(self, older_than: timedelta | None, result: CleanupResult) -> None:
        """Take stock, and remove what the policy does not keep; add it to the result."""
        self._failed = set()
        present = await self._home.database.read(present_workspaces)
        unmeasured = await self._home.database.read(lambda c: unmeasured_saved_work(c, _MOST_MEASURED))
        if bool(present or unmeasured) or await asyncio.to_thread(self._has_folders):
            await self._take_stock(present, unmeasured)
        try:
            while workspaces := await self._selection.now_removable(older_than, result.failed):
                for number, workspace in enumerate(workspaces):
                    self.progress = Progress(number, len(workspaces))
                    await self._sweep_one(workspace, result)
        finally:
            self.progress = None
        self._home.problems.keep_only(_PART, self._failed)

    async def _take_stock(self, present: Iterable[Workspace], unmeasured: Collection[int]) -> None:
        """Delete what earlier removals left, reconcile database and disk, and measure workspaces and saved work."""
        async with workspace_helper(self._home.state_dir) as helper:
            await helper.delete_leftovers()
            survey = WorkspaceSurvey(self._home, helper)
            await survey.reconcile(present)
            self._failed |= survey.failed
            await survey.measure(await self._home.database.read(present_workspaces))
            if unmeasured:
                measured = await helper.measure_saved_work(MeasureSavedWork(tuple(unmeasured)))
                await self._home.database.write_if_possible(lambda tx: set_saved_bytes(tx, measured.by_run))

    def _has_folders(self) -> bool:
        """Return whether there may be workspaces or trash on disk that the database does not know."""
        places = (self._home.state_dir / ENVIRONMENTS, self._home.state_dir / RUNS / TRASH)
        return any(place.is_dir() and any(place.iterdir()) for place in places)

    async def _sweep_one(self, workspace: Workspace, result: CleanupResult) -> None:
        if workspace.ended_at is not None:
            hours = (self._home.now() - workspace.ended_at) / timedelta(hours=1)
            _LOG.info(f"[cleanup] Removing old task {workspace.run_id} (age: {hours:.1f}h)")
        try:
            reason = await self._removal.remove(
                workspace, policy_of(self._live.config, workspace.environment).salvage_max
            )
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad workspace does not stop the others
            _LOG.exception("[cleanup] ERROR: Failed to remove task workspace", run_id=workspace.run_id)
            reason = f"unexpected error: {error}"
        if reason is None:
            result.removed.append(workspace.run_id)
        elif reason != REMOVED_BY_OTHERS:
            result.failed[workspace.run_id] = reason
