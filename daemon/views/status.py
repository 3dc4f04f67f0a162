"""The state of the daemon in one document, as `agentcron status` shows it."""

import json
import shutil
import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from pathlib import Path
from types import MappingProxyType
from typing import Any

from typing_extensions import TypedDict

from daemon.config.effective import budgets_of
from daemon.config.schema import Config
from daemon.model import RunStatus
from daemon.problems import Problem
from daemon.rules.budget import calendar_day
from daemon.store.notifications import paused_by_failure
from daemon.store.run_queue import count_held_back, count_pending
from daemon.store.runs import SELECT_RUNS_WITHOUT_INPUT, run_from
from daemon.store.schedules import SELECT_WITHOUT_INPUT, UNDECIDABLE, schedule_from
from daemon.store.skips import pending_skips
from daemon.store.spending import SPENT
from daemon.store.workspaces import saved_work
from daemon.units import format_duration, format_instant, format_size, parse_instant
from daemon.views.budgets import BudgetView, budget_views
from daemon.views.pages import PAGE_BYTES, page_of
from daemon.views.pools import PoolView, pool_views
from daemon.views.runs import RunView, run_view
from daemon.views.schedules import upcoming
from daemon.workspaces.mirror_use import MirrorChange

_FEW = 5
_MANY = 500
_RUNNING = "r.completed_at IS NULL AND r.status IN ('running', 'suspended')"
_HOURS = 24
_MOST_PROBLEMS = 100
_WORST_LAST = (
    RunStatus.PENDING,
    RunStatus.COMPLETED,
    RunStatus.SUSPENDED,
    RunStatus.RUNNING,
    RunStatus.CONTINUED_AS_NEW,
    RunStatus.CANCELLED,
    RunStatus.INTERRUPTED,
    RunStatus.FAILED,
)


_UNKNOWN_USAGE = (
    "CASE WHEN usage_state IS NOT 'exact' AND started_at IS NOT NULL AND json_valid(settings) THEN nullif("
    "json_extract(settings, '$.kind') = 'acp' OR json_extract(settings, '$.result_format') <> 'none', 0) END"
)


class _Spent(TypedDict):
    cost_today_usd: float | None
    tokens_today: int
    usage_unknown_today: int
    """Runs of agents that tell what they use, of which it is not known, or only at least."""


class ProblemView(TypedDict):
    """One thing that fails and is retried; without a subject, a part of the daemon as a whole."""

    part: str
    subject: str | None
    reason: str
    since: str
    failures: int
    retry_at: str | None


class WaitView(TypedDict):
    """Runs that wait: in the queue until mirrors have been fetched or repacked, or running, for other remotes."""

    environment: str
    waits_for: str
    """`fetch` or `maintenance` of the mirror, `submodules`, or `lfs`.

    A run that is running waits for the last two only if they cannot be mirrored.
    """
    since: str
    runs: list[int]
    """Those that this began for; later ones of the environment wait as well."""


class PausedView(TypedDict):
    """A schedule that a failed run paused (`pause_on_failure`); a person must resume it."""

    schedule: str
    paused_at: str
    note: str


class StatusView(_Spent):
    """How the daemon is doing; `running` and `timeline` hold at most 500 entries, and the totals count all.

    `paused_by_failure` holds the newest 500.
    """

    daemon: dict[str, Any]
    problems: list[ProblemView]
    running: list[RunView]
    running_total: int
    pending: int
    pending_paused: int
    waits: list[WaitView]
    pools: list[PoolView]
    next: list[dict[str, Any]]
    last_failures: list[RunView]
    paused_by_failure: list[PausedView]
    timeline: list[dict[str, Any]]
    timeline_total: int
    budgets: list[BudgetView]
    sweeps: dict[str, dict[str, int]]
    disk: dict[str, str]


def status_view(
    connection: sqlite3.Connection,
    state_dir: Path,
    daemon: int | None,
    now: datetime,
    config: Config,
    agents: list[str] | None = None,
    *,
    problems: str | None,
    failing: Sequence[ProblemView] = (),
    waits: Sequence[WaitView] = (),
    sweeps: Mapping[str, dict[str, int]] = MappingProxyType({}),
) -> StatusView:
    """Return problems, active runs, next starts, last failures, the last 24 hours, the cost of today, and disk usage.

    `daemon` is the daemon's pid, None without one; `problems` are those that it reports, empty if it is healthy and
    None if it does not respond; `failing` names each thing that fails, `waits` what runs wait for. `agents` are the
    visible agents, None for all. `sweeps` holds the progress of running sweeps. `config` tells which pools and budgets
    there are, and in which zone today is a calendar day.
    """
    seen = {"agents": None if agents is None else json.dumps(agents)}
    running = _runs(connection, _RUNNING, seen, "r.id", _MANY)
    failed = _runs(connection, "r.status IN ('failed', 'interrupted')", seen, "r.id DESC", _FEW)
    timeline = _timeline(connection, now, seen)
    return {
        "daemon": {
            "running": daemon is not None,
            "answers": problems is not None,
            "amiss": problems or None,
            "pid": daemon,
            "uptime": _uptime(daemon, now),
        },
        "problems": [*failing],
        "running": running,
        "running_total": _count(connection, _RUNNING, seen),
        "pending": count_pending(connection),
        "pending_paused": count_held_back(connection),
        "waits": [*waits],
        "pools": pool_views(connection, config, agents),
        "next": _next(connection, now, seen),
        "last_failures": failed,
        "paused_by_failure": [
            PausedView(schedule=one["schedule"], paused_at=one["paused_at"], note=one["note"])
            for one in paused_by_failure(connection, seen["agents"], _MANY)
        ],
        "timeline": timeline[:_MANY],
        "timeline_total": len(timeline),
        **_spent_since(connection, calendar_day(now, config.daemon.timezone)[0], seen),
        "budgets": [*islice(budget_views(connection, budgets_of(config), now, agents), _MANY)],
        "sweeps": dict(sweeps),
        "disk": _disk(connection, state_dir),
    }


def wait_views(changes: Iterable[MirrorChange], agents: list[str] | None) -> list[WaitView]:
    """Return what runs of those agents wait for, None for all."""
    views = []
    for change in changes:
        runs = [run for run, agent in sorted(change.runs.items()) if agents is None or agent in agents]
        if runs or agents is None:
            since = format_instant(change.since)
            views.append(WaitView(environment=change.environment, waits_for=change.what, since=since, runs=runs))
    return views


def problem_views(problems: Iterable[Problem], agents: list[str] | None) -> list[ProblemView]:
    """Return problems as people see them who may see those agents, None for all; not more than can be read."""
    seen = [one for one in problems if agents is None or one.subject is None or one.agent in agents]
    return [
        {
            "part": one.part,
            "subject": one.subject,
            "reason": one.reason if agents is None or one.agent in agents else "see the log",
            "since": format_instant(one.since),
            "failures": one.failures,
            "retry_at": None if one.retry_at is None else format_instant(one.retry_at),
        }
        for one in seen[:_MOST_PROBLEMS]
    ]


def _is_seen(column: str) -> str:
    return f"(:agents IS NULL OR {column} IN (SELECT value FROM json_each(:agents)))"


def _runs(connection: sqlite3.Connection, which: str, seen: dict[str, Any], order: str, limit: int) -> list[RunView]:
    rows = connection.execute(
        f"{SELECT_RUNS_WITHOUT_INPUT} WHERE {which} AND {_is_seen('r.agent')} ORDER BY {order} LIMIT {limit}", seen
    )
    return [run_view(run_from(row)) for row in page_of(rows, limit, PAGE_BYTES)[0]]


def _count(connection: sqlite3.Connection, which: str, seen: dict[str, Any]) -> int:
    query = f"SELECT count(*) AS n FROM runs r WHERE {which} AND {_is_seen('r.agent')}"
    return int(connection.execute(query, seen).fetchone()["n"])


def _next(connection: sqlite3.Connection, now: datetime, seen: dict[str, Any]) -> list[dict[str, Any]]:
    rows = connection.execute(
        f"{SELECT_WITHOUT_INPUT} WHERE deleted_at IS NULL AND paused = 0 AND wake_at IS NOT NULL "
        "AND NOT EXISTS (SELECT 1 FROM notify_states n WHERE n.subject = 'blocked:' || schedules.id) "
        f"AND {_is_seen('agent')} ORDER BY wake_at",
        seen,
    )
    skipped = connection.execute("SELECT count(DISTINCT schedule_id) AS n FROM schedule_skips").fetchone()["n"]
    found = (
        {"schedule": f"{row['agent']}/{row['name']}", "scheduled_for": due, "timezone": row["timezone"]}
        for row in rows
        if (due := _next_due(connection, row, now)) is not None
    )
    return sorted(islice(found, _FEW + min(_MANY, skipped)), key=lambda one: one["scheduled_for"])[:_FEW]


def _next_due(connection: sqlite3.Connection, row: sqlite3.Row, now: datetime) -> str | None:
    """Return the next due time after now that is not skipped; the one in the row may be past and delayed by jitter.

    None: there is none, or it is unknown when the schedule is due, although the row says when the clock checks it.
    """
    skips = pending_skips(connection, row["id"])
    try:
        cadence = schedule_from(row).cadence
        if row["next_due"] > format_instant(now) and row["next_due"] not in skips:
            return str(row["next_due"])
        due = upcoming(cadence, now, 1, skips)
    except UNDECIDABLE:
        return None
    return format_instant(due[0]) if due else None


def _timeline(connection: sqlite3.Connection, now: datetime, seen: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the last 24 hours of each schedule that ran: for each hour the worst status of its runs, oldest first."""
    begin = now - timedelta(hours=_HOURS)
    rows = connection.execute(
        "SELECT s.agent, s.name, r.status, coalesce(r.started_at, r.created_at) AS at FROM runs r "
        "JOIN schedules s ON s.id = r.schedule_id WHERE (r.completed_at IS NULL OR r.updated_at >= :begin) "
        f"AND {_is_seen('r.agent')}",
        {**seen, "begin": format_instant(begin)},
    )
    found: dict[str, list[list[RunStatus]]] = {}
    for row in rows:
        try:
            hour = (parse_instant(row["at"]) - begin) // timedelta(hours=1)
        except ValueError:  # somebody edited the row
            continue
        if 0 <= hour < _HOURS:
            hours = found.setdefault(f"{row['agent']}/{row['name']}", [[] for _ in range(_HOURS)])
            hours[hour].append(RunStatus(row["status"]))
    return [
        {"schedule": schedule, "hours": [_worst(statuses) for statuses in hours], "runs": sum(map(len, hours))}
        for schedule, hours in sorted(found.items())
    ]


def _worst(statuses: Iterable[RunStatus]) -> RunStatus | None:
    return max(statuses, key=_WORST_LAST.index, default=None)


def _spent_since(connection: sqlite3.Connection, begin: datetime, seen: dict[str, Any]) -> _Spent:
    cost, tokens, unknown = connection.execute(
        f"SELECT {SPENT}, count({_UNKNOWN_USAGE}) AS unknown FROM runs r WHERE r.completed_at IS NOT NULL "
        f"AND r.updated_at >= :begin AND r.completed_at >= :begin AND {_is_seen('r.agent')}",
        {**seen, "begin": format_instant(begin)},
    ).fetchone()
    return {"cost_today_usd": cost, "tokens_today": tokens, "usage_unknown_today": unknown}


def _uptime(pid: int | None, now: datetime) -> str | None:
    if pid is None:
        return None
    try:
        since = datetime.fromtimestamp(Path(f"/proc/{pid}").stat().st_mtime, UTC)
    except OSError:  # it has just ended
        return None
    return format_duration(now - since)


def _disk(connection: sqlite3.Connection, state_dir: Path) -> dict[str, str]:
    database = sum(path.stat().st_size for path in state_dir.glob("state.db*"))
    saved = sum(size for _, size in saved_work(connection).values())
    return {
        "used": format_size(database),
        "saved_work": format_size(saved),
        "free": format_size(shutil.disk_usage(state_dir).free),
    }
