"""Computes what retention would delete now, without deleting anything."""

from dataclasses import dataclass, field
from pathlib import Path

from daemon.maintenance.purge import Purge
from daemon.rules.retention import Cutoff, RetentionPolicy
from daemon.store.database import Database
from daemon.store.retention import ExpiredRun, expired_runs
from daemon.workspaces.client import workspace_helper
from daemon.workspaces.jobs import MeasureRunFolders, RemoveOrphans

_MOST_NAMED = 1000  # runs
_BATCH = 2000  # runs examined and measured at once


@dataclass
class Group:
    """The expired runs of one schedule."""

    runs: int
    oldest: str
    newest: str
    """The earliest and the latest `updated_at` among them."""
    bytes: int


@dataclass
class Forecast:
    """What a sweep would delete."""

    runs: int = 0
    fires: int = 0
    workspaces: int = 0
    """Workspaces that would be saved and removed first; their runs stay for now."""
    folders: int = 0
    bytes: int = 0
    run_ids: list[int] = field(default_factory=list)
    """The first of them."""
    groups: dict[tuple[str, str], Group] = field(default_factory=dict)

    def add(self, run: ExpiredRun, size: int) -> None:
        """Add a run to the totals and to its group."""
        self.runs += 1
        self.bytes += size
        if len(self.run_ids) < _MOST_NAMED:
            self.run_ids.append(run.id)
        group = self.groups.setdefault((run.agent, run.schedule or ""), Group(0, run.updated_at, run.updated_at, 0))
        group.runs += 1
        group.bytes += size
        group.oldest, group.newest = min(group.oldest, run.updated_at), max(group.newest, run.updated_at)


async def forecast(database: Database, state_dir: Path, policy: RetentionPolicy, latest: Cutoff) -> Forecast:
    """Return what a sweep by a policy would delete; raise StoreUnavailableError, WorkspaceHelperError or OSError."""
    found = Forecast()
    async with database.aside() as aside, workspace_helper(state_dir) as helper:
        purge = Purge(database, aside, policy, latest)
        async for batch in purge.candidates(_BATCH):
            expired = await purge.expired(batch)
            numbers = expired.gone
            found.workspaces += len(expired.released)
            sizes = (await helper.measure_run_folders(MeasureRunFolders(tuple(numbers)))).by_run
            found.folders += len(sizes)
            for run in await aside.read(lambda c, numbers=numbers: expired_runs(c, numbers)):  # type: ignore[misc]
                found.add(run, sizes.get(run.id, 0))
        cutoff = policy.general.cutoff
        left = await helper.remove_orphans(RemoveOrphans(cutoff.text if cutoff else None, dry_run=True))
        found.folders += left.folders
        found.bytes += left.bytes
        for schedule_id in await purge.schedules_with_old_fires():
            found.fires += await purge.expired_fires(schedule_id)
    return found
