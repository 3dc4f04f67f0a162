"""Removes the workspaces that the policy does not keep, one by one in a helper process, after saving their work."""

import asyncio
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime, timedelta
from functools import partial
from typing import TypeVar

import structlog

from daemon.config.effective import policy_of
from daemon.config.live import LiveConfig
from daemon.errors import NotFoundError, RefusedError, StoreDamagedError, StoreUnavailableError
from daemon.maintenance.timer import Progress, cadence_of, wait_until_due
from daemon.metrics import Metrics
from daemon.model import ACTIVE
from daemon.notify.outbox import Notice, Outbox
from daemon.problems import described, standing_loop
from daemon.rules.cadence import Cadence
from daemon.rules.cleanup import CleanupDecision, Policy, beyond_quota, decide_cleanup
from daemon.store.changes import Changes
from daemon.store.connection import Transaction, concerns_others
from daemon.store.database import Closure
from daemon.store.events import add_event
from daemon.store.home import Home
from daemon.store.runs import get_run, update_run
from daemon.store.workspaces import (
    Workspace,
    add_workspace,
    by_environment,
    get_workspace,
    mark_removed,
    present_workspaces,
    saved_work,
    set_bytes,
    set_kept,
    set_note,
    set_saved_bytes,
    unmeasured_saved_work,
)
from daemon.text import plural
from daemon.units import format_size
from daemon.workspaces.client import WorkspaceHelper, WorkspaceHelperError, workspace_helper
from daemon.workspaces.jobs import (
    CleanedWorkspace,
    CleanWorkspace,
    ExamineWorkspace,
    FindSavedWork,
    MaintainMirror,
    MeasureSavedWork,
    MeasureWorkspaces,
    QuarantineWorkspace,
    SavedWork,
    WorkspaceContents,
)
from daemon.workspaces.layout import ENVIRONMENTS, RUNS, workspace_path
from daemon.workspaces.mirror_maintenance import is_due
from daemon.workspaces.mirror_use import MirrorUse
from daemon.workspaces.pipe import LARGEST
from daemon.workspaces.removal import TRASH
from daemon.workspaces.sources import source_of

T = TypeVar("T")
_LOG = structlog.get_logger()
_PART, _SWEEP = "cleanup", "sweep"
_MAINTENANCE_TIMEOUT = 3600.0  # seconds
_MOST_MEASURED = 1000  # runs whose saved work one sweep measures
_DELAY = 1.0  # seconds from the end of a run to the sweep, so that runs that end together need only one


@dataclass(frozen=True)
class Unsaved:
    """The decision of a person to remove a workspace without saving its work."""

    by: str
    """Who decided."""
    text: str
    """What is lost."""


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

    def __init__(self, home: Home, live: LiveConfig, metrics: Metrics, outbox: Outbox, mirrors: MirrorUse) -> None:
        self.progress: Progress | None = None
        self._home = home
        self._live = live
        self._metrics = metrics
        self._outbox = outbox
        self._mirrors = mirrors
        self._quotas: dict[str, Notice] = {}
        self._one_at_a_time = asyncio.Lock()
        self._deciding = asyncio.Lock()  # so that no workspace is marked keep while its removal begins
        self._removing: set[int] = set()
        self._failed: set[str] = set()
        """What the last sweep could not record."""
        self._run_ended = asyncio.Event()
        home.database.on_commit(self._committed)

    def _committed(self, changes: Changes) -> None:
        """Wake up when a run has ended, to measure its workspace and to check the quotas."""
        if any(change.started_at is not None and change.after not in ACTIVE for change in changes.statuses):
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
                await self._measure(helper, new)
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
            result.removed = [workspace.run_id for workspace in await self._now_removable(older_than, ())]
            return result
        async with self._one_at_a_time:
            self._failed = set()
            present = await self._home.database.read(present_workspaces)
            unmeasured = await self._home.database.read(lambda c: unmeasured_saved_work(c, _MOST_MEASURED))
            if not present and not unmeasured and not await asyncio.to_thread(self._has_folders):
                self._home.problems.keep_only(_PART, ())
                return result
            async with workspace_helper(self._home.state_dir) as helper:
                await helper.delete_leftovers()
                await self._reconcile(helper, present)
                await self._measure(helper, await self._home.database.read(present_workspaces))
                if unmeasured:
                    measured = await helper.measure_saved_work(MeasureSavedWork(tuple(unmeasured)))
                    await self._write_if_possible(lambda tx: set_saved_bytes(tx, measured.by_run))
            try:
                while workspaces := await self._now_removable(older_than, result.failed):
                    for number, workspace in enumerate(workspaces):
                        self.progress = Progress(number, len(workspaces))
                        await self._sweep_one(workspace, result)
            finally:
                self.progress = None
            await self._maintain_mirrors()
            self._home.problems.keep_only(_PART, self._failed)
        if result.removed:
            _LOG.info(f"[cleanup] Removed {len(result.removed)} old task workspace(s)")
        await self._outbox.post(self._home, [*self._quotas.values(), *result.notices()])
        return result

    async def _maintain_mirrors(self) -> None:
        """Repack the mirrors for which that is due, each at a moment when no workspace is made from it."""
        for name in self._live.config.environments:
            source = source_of(self._live.config, name)
            if source is None or not await asyncio.to_thread(is_due, self._home.state_dir, name):
                continue
            try:
                async with (
                    self._mirrors.changing(name, "maintenance", {}),
                    workspace_helper(self._home.state_dir) as helper,
                ):
                    await helper.maintain_mirror(MaintainMirror(source, _MAINTENANCE_TIMEOUT))
            except (WorkspaceHelperError, OSError) as error:
                self._failed.add(f"mirror {name}")
                self._home.problems.report(_PART, described(error), subject=f"mirror {name}")
                _LOG.error("[cleanup] ERROR: Cannot repack the mirror of an environment", name=name, error=str(error))
            else:
                _LOG.info("[cleanup] Repacked the mirror of an environment", name=name)

    async def _now_removable(self, older_than: timedelta | None, failed: Collection[int]) -> list[Workspace]:
        present = await self._home.database.read(present_workspaces)
        saved = await self._home.database.read(saved_work)
        return self._removable(present, {name: size for name, (_, size) in saved.items()}, older_than, failed)

    def _has_folders(self) -> bool:
        """Return whether there may be workspaces or trash on disk that the database does not know."""
        places = (self._home.state_dir / ENVIRONMENTS, self._home.state_dir / RUNS / TRASH)
        return any(place.is_dir() and any(place.iterdir()) for place in places)

    def _removable(
        self,
        present: Iterable[Workspace],
        saved: Mapping[str, int],
        older_than: timedelta | None,
        failed: Collection[int],
    ) -> list[Workspace]:
        """Return the workspaces to remove now, oldest first, without those whose removal failed.

        `saved` are the bytes of saved work by environment, which count for its quota.
        """
        found: list[Workspace] = []
        groups = by_environment(present)
        for name in [*groups, *(name for name in saved if name not in groups)]:
            group, policy = groups.get(name, []), policy_of(self._live.config, name)
            decisions = dict(decide_cleanup((one.candidate for one in group), policy, self._home.now(), older_than))
            for run in decisions.keys() & set(failed):
                decisions[run] = replace(decisions[run], may_go=False, due=False)
            due = {run for run, decision in decisions.items() if decision.due}
            rest = {one.run_id: one.bytes or 0 for one in group if one.run_id not in due}
            if older_than is None:
                due |= self._over_quota(name, policy, rest, saved.get(name, 0), decisions)
            found += [one for one in group if one.run_id in due]
        return found

    def _over_quota(
        self, name: str, policy: Policy, sizes: Mapping[int, int], saved: int, decisions: Mapping[int, CleanupDecision]
    ) -> set[int]:
        used = sum(sizes.values()) + saved
        if policy.quota is None or used < policy.quota * policy.quota_warn:
            self._quotas[name] = Notice("quota", "", subject=f"quota:{name}")
            return set()
        removable = set(beyond_quota(sizes, decisions, policy.quota - saved))
        left = used - sum(sizes[run] for run in removable)
        state = "near" if used <= policy.quota else "exceed"
        details = {
            "environment": name,
            "used": format_size(used),
            "quota": format_size(policy.quota),
            "saved_work": format_size(saved),
            "going": len(removable),
            "left": format_size(left),
        }
        problem = "are near their quota" if state == "near" else "exceed their quota"
        _LOG.warning(f"[cleanup] The workspaces of an environment {problem}", **details)
        text = f"the workspaces of {name} {problem}: {details['used']} of {details['quota']}"
        self._quotas[name] = Notice("quota", text, subject=f"quota:{name}", state=state, details=details)
        return removable

    async def _sweep_one(self, workspace: Workspace, result: CleanupResult) -> None:
        if workspace.ended_at is not None:
            hours = (self._home.now() - workspace.ended_at) / timedelta(hours=1)
            _LOG.info(f"[cleanup] Removing old task {workspace.run_id} (age: {hours:.1f}h)")
        try:
            reason = await self._remove(workspace, policy_of(self._live.config, workspace.environment).salvage_max)
        except StoreDamagedError:
            raise
        except Exception as error:  # noqa: BLE001 - one bad workspace does not stop the others
            _LOG.exception("[cleanup] ERROR: Failed to remove task workspace", run_id=workspace.run_id)
            reason = f"unexpected error: {error}"
        if reason is None:
            result.removed.append(workspace.run_id)
        else:
            result.failed[workspace.run_id] = reason

    async def release(self, run_id: int) -> str | None:
        """Save and remove the workspace of an expired run, which renews the run; return why it was not removed.

        A workspace that is marked keep stays, as does one with more unsaved work than `salvage_max`.
        """
        workspace = await self._home.database.read(lambda c: get_workspace(c, run_id))
        if workspace is None or workspace.state != "present":
            return None
        policy = policy_of(self._live.config, workspace.environment)
        return await self._remove(workspace, policy.salvage_max, renews=True)

    async def _remove(
        self, workspace: Workspace, salvage_max: int | None, *, renews: bool = False, unsaved: Unsaved | None = None
    ) -> str | None:
        """Save and remove a workspace in a helper process; return why it was not removed.

        With `unsaved` nothing is saved.
        """
        async with self._deciding:
            current = await self._home.database.read(lambda c: get_workspace(c, workspace.run_id))
            if current is None or current.status in ACTIVE:
                return "its run is active"
            if current.kept:
                return "it has been marked keep"
            if workspace.run_id in self._removing:
                return "it is already being removed"
            self._removing.add(workspace.run_id)
        limit = None if salvage_max is None else min(salvage_max, LARGEST)
        try:
            async with workspace_helper(self._home.state_dir) as helper:
                saves = unsaved is None
                done = await helper.clean_workspace(
                    CleanWorkspace(workspace.environment, workspace.run_id, workspace.base, limit, saves=saves)
                )
        except (WorkspaceHelperError, OSError) as error:
            done = CleanedWorkspace(gone=False, reason=str(error))
        finally:
            self._removing.discard(workspace.run_id)
        record = partial(self._record, workspace.run_id, done, renews=renews, unsaved=unsaved)
        if done.gone or done.in_trash:
            await self._home.database.write_patiently(record)
        else:  # the next sweep finds it again, and the disk may be too full to record the failure
            await self._write_if_possible(record)
        self._metrics.cleaned("removed" if done.gone else "failed")
        return None if done.gone else str(done.reason)

    def _record(
        self, run_id: int, done: CleanedWorkspace, tx: Transaction, *, renews: bool, unsaved: Unsaved | None
    ) -> None:
        now, saved = self._home.now(), asdict(done.saved) if done.saved else None
        if done.saved is not None and done.saved.folder is not None:
            set_saved_bytes(tx, {run_id: done.saved.stored})
        if done.gone or done.in_trash:
            mark_removed(tx, run_id, now)
            if renews or (saved and saved["folder"]):
                update_run(tx, run_id, now)  # the saved work is kept as long as the run
            left: dict[str, object] = {"left_in_trash": done.reason} if done.in_trash else {}
            if unsaved is not None:
                left |= {"lost": unsaved.text, "by": unsaved.by}
            add_event(tx, run_id, now, "workspace_cleaned", {"saved": saved, **left})
        elif set_note(tx, run_id, str(done.reason)):
            add_event(tx, run_id, now, "workspace_not_cleaned", {"reason": done.reason, "saved": saved})

    async def discard(self, run_id: int, unsaved: Unsaved | None = None) -> str | None:
        """Save and remove the workspace of a run, regardless of the policy; return why it was not removed.

        With `unsaved` nothing is saved. Raise NotFoundError if there is none, RefusedError if the run is active or the
        workspace is marked keep.
        """
        return await self._remove(await self._discardable(run_id), None, unsaved=unsaved)

    async def loss(self, run_id: int) -> WorkspaceContents:
        """Return what `discard` without saving would delete; raise NotFoundError, RefusedError or OSError."""
        workspace = await self._discardable(run_id)
        async with workspace_helper(self._home.state_dir) as helper:
            return await helper.examine_workspace(ExamineWorkspace(workspace.environment, run_id))

    async def _discardable(self, run_id: int) -> Workspace:
        workspace = await self._home.database.read(lambda c: get_workspace(c, run_id))
        if workspace is None or workspace.state != "present":
            raise NotFoundError(f"run {run_id} has no workspace")
        if workspace.status in ACTIVE:
            raise RefusedError(f"run {run_id} is {workspace.status}; its workspace is in use")
        if workspace.kept:
            raise RefusedError(f"the workspace of run {run_id} is marked keep; unkeep it first")
        return workspace

    async def keep(self, run_id: int, by: str, *, kept: bool) -> Workspace:
        """Mark a workspace keep, so that it is never removed, or unmark it; raise NotFoundError or RefusedError."""

        def mark(tx: Transaction) -> Workspace:
            workspace = get_workspace(tx, run_id)
            if workspace is None or workspace.state != "present":
                raise NotFoundError(f"run {run_id} has no workspace")
            if workspace.kept is not kept:
                set_kept(tx, run_id, kept=kept)
                add_event(tx, run_id, self._home.now(), "workspace_kept" if kept else "workspace_unkept", {"by": by})
            return get_workspace(tx, run_id) or workspace

        async with self._deciding:
            if run_id in self._removing:
                raise RefusedError(f"the workspace of run {run_id} is already being removed")
            return await self._home.database.write(mark)

    async def _measure(self, helper: WorkspaceHelper, present: Iterable[Workspace]) -> None:
        sizes: dict[int, int] = {}
        for name, group in by_environment(present).items():
            measured = await helper.measure_workspaces(MeasureWorkspaces(name, tuple(one.run_id for one in group)))
            sizes |= measured.by_run
        if sizes:
            await self._write_if_possible(lambda tx: set_bytes(tx, sizes))

    async def _reconcile(self, helper: WorkspaceHelper, present: Iterable[Workspace]) -> None:
        """Reconcile database and disk: register or quarantine unknown folders, and close rows without folders."""
        survey = (await helper.list_workspaces()).by_environment
        on_disk = {(environment, name) for environment, names in survey.items() for name in names or ()}
        in_database = {(one.environment, str(one.run_id)): one for one in present}
        for place, workspace in in_database.items():
            is_listed = survey.get(workspace.environment, []) is not None
            if is_listed and place not in on_disk and workspace.status not in ACTIVE:
                _LOG.warning("[cleanup] A workspace is missing that agentcron did not remove", run_id=workspace.run_id)
                found = await helper.find_saved_work(FindSavedWork(workspace.run_id))
                await self._write_of(str(workspace.run_id), partial(self._record_lost, workspace.run_id, found.saved))
        for environment, name in sorted(on_disk - in_database.keys()):
            if await self._write_of(name, partial(self._register, environment, name)) is False:
                await self._quarantine(helper, environment, name)

    async def _write_of(self, name: str, closure: Closure[T]) -> T | None:
        """Write about one workspace as `_write_if_possible` does; an error does not affect the others."""
        try:
            return await self._write_if_possible(closure)
        except Exception as error:
            if concerns_others(error):
                raise
            self._failed.add(f"workspace {name}")
            self._home.problems.report(_PART, described(error), subject=f"workspace {name}")
            _LOG.exception("[cleanup] ERROR: Failed to record a workspace", name=name)
            return None

    async def _write_if_possible(self, closure: Closure[T]) -> T | None:
        """Write unless the database cannot be written: the workspaces to be removed may be what fills the disk."""
        try:
            return await self._home.database.write(closure)
        except StoreUnavailableError:
            return None

    async def _quarantine(self, helper: WorkspaceHelper, environment: str, name: str) -> None:
        try:
            moved = await helper.quarantine_workspace(QuarantineWorkspace(environment, name))
        except WorkspaceHelperError as error:
            _LOG.error("[cleanup] Cannot move away a workspace of an unknown run", name=name, error=str(error))
        else:
            _LOG.warning("[cleanup] Moved away a workspace of an unknown run", path=str(moved.path))

    def _record_lost(self, run_id: int, saved: SavedWork | None, tx: Transaction) -> None:
        """Record that a workspace is missing; a script may have removed it, after saving its work."""
        mark_removed(tx, run_id, self._home.now())
        update_run(tx, run_id, self._home.now())  # the saved work is kept as long as the run
        if saved is not None:
            set_saved_bytes(tx, {run_id: saved.stored})
        add_event(tx, run_id, self._home.now(), "workspace_lost", {"saved": asdict(saved) if saved else None})

    def _register(self, environment: str, name: str, tx: Transaction) -> bool:
        """Record a folder as the workspace of its run; return whether it belongs to a known run."""
        run = get_run(tx, int(name)) if name.isascii() and name.isdigit() and len(name) < 19 else None  # noqa: PLR2004
        if run is None or str(run.id) != name:
            return False
        known = get_workspace(tx, run.id)
        if known is not None and known.state == "present":
            return known.environment == environment  # it was recorded after the sweep began
        if run.status in ACTIVE:
            return True  # it is being made, and is recorded when it is complete
        path = workspace_path(self._home.state_dir, environment, name)
        add_workspace(tx, run.id, environment, path, self._home.now())
        add_event(tx, run.id, self._home.now(), "workspace_found", {"environment": environment})
        return True
