"""The result of a sweep, one pass of cleanup or retention, as the API and `--json` show it."""

from typing import Any

from typing_extensions import TypedDict

from daemon.maintenance.cleanup import CleanupResult
from daemon.maintenance.preview import Forecast
from daemon.maintenance.retention import RetentionResult


class CleanView(TypedDict):
    """What a cleanup removed, or would remove."""

    removed: list[int]
    failed: list[dict[str, Any]]
    dry_run: bool


class ExpiredGroup(TypedDict):
    """The expired runs of one schedule; `oldest` and `newest` are the times of their last updates."""

    agent: str
    schedule: str | None
    runs: int
    oldest: str
    newest: str
    bytes: int


class ForecastView(TypedDict):
    """What a sweep would delete; `run_ids` names the first thousand runs."""

    runs: int
    fires: int
    workspaces: int
    folders: int
    bytes: int
    run_ids: list[int]
    groups: list[ExpiredGroup]


class RetentionView(TypedDict):
    """What a sweep deleted; `skipped` if retention is not set, `would_delete` for a dry run.

    `clock_doubt` is why the clock may be wrong, for a dry run: a sweep would then refuse.
    """

    deleted: int
    skipped: bool
    fires: int
    schedules: int
    workspaces: int
    folders: int
    bytes_freed: int
    duration_ms: int
    dry_run: bool
    would_delete: ForecastView | None
    clock_doubt: str | None


def clean_view(result: CleanupResult) -> CleanView:
    """Return what a cleanup removed, or would remove."""
    failed = [{"run_id": run, "reason": reason} for run, reason in result.failed.items()]
    return {"removed": result.removed, "failed": failed, "dry_run": result.dry_run}


def retention_view(
    found: RetentionResult | Forecast, clock_doubt: str | None = None, *, dry_run: bool
) -> RetentionView:
    """Return what a sweep deleted, or would delete."""
    result, forecast = (RetentionResult(), found) if isinstance(found, Forecast) else (found, None)
    return {
        "deleted": result.deleted,
        "skipped": result.skipped,
        "fires": result.fires,
        "schedules": result.schedules,
        "workspaces": result.workspaces,
        "folders": result.folders,
        "bytes_freed": result.bytes_freed,
        "duration_ms": result.duration_ms,
        "dry_run": dry_run,
        "would_delete": None if forecast is None else _forecast_view(forecast),
        "clock_doubt": clock_doubt,
    }


def _forecast_view(forecast: Forecast) -> ForecastView:
    groups: list[ExpiredGroup] = [
        {
            "agent": agent,
            "schedule": schedule or None,
            "runs": group.runs,
            "oldest": group.oldest,
            "newest": group.newest,
            "bytes": group.bytes,
        }
        for (agent, schedule), group in sorted(forecast.groups.items())
    ]
    return {
        "runs": forecast.runs,
        "fires": forecast.fires,
        "workspaces": forecast.workspaces,
        "folders": forecast.folders,
        "bytes": forecast.bytes,
        "run_ids": forecast.run_ids,
        "groups": groups,
    }
