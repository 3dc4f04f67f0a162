"""Schedules, runs and fires as everybody outside sees them: the bodies of `--json` and of the control API."""

import json
import shutil
import sqlite3
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from daemon.config.schema import AgentexAgent, CommandAgent, Config
from daemon.model import DueTime, Step
from daemon.rules.cadence import Cadence
from daemon.store.runs import SELECT_RUNS, Run, count_pending, run_from
from daemon.store.schedules import ScheduleRow, schedule_from
from daemon.units import format_duration, format_instant, format_size, parse_instant

_NEXT_TIMES = 5
_FEW = 5


def upcoming(cadence: Cadence, after: datetime, count: int) -> list[DueTime]:
    """Return the next due times strictly after an instant."""
    times: list[DueTime] = []
    due = cadence.next_after(after)
    while due is not None and len(times) < count:
        times.append(due)
        due = cadence.next_after(due)
    return times


def schedule_view(connection: sqlite3.Connection, row: ScheduleRow, config: Config, now: datetime) -> dict[str, Any]:
    """Return one schedule with its state, its next due times and its figures."""
    definition = row.definition
    skips = [
        skip["scheduled_for"]
        for skip in connection.execute(
            "SELECT scheduled_for FROM schedule_skips WHERE schedule_id = ? ORDER BY 1", (row.id,)
        )
    ]
    times = upcoming(row.cadence, now, _NEXT_TIMES) if not row.paused and not row.deleted_at else []
    return {
        "id": row.id,
        "agent": row.agent,
        "name": row.name,
        "source": row.source,
        "description": definition["description"],
        "cron_expression": definition["cron"],
        "interval_seconds": _seconds(definition["every_ms"]),
        "offset_seconds": _seconds(definition["offset_ms"]),
        "timezone": definition["timezone"],
        "start_at": definition["start_at"],
        "end_at": definition["end_at"],
        "jitter_seconds": _seconds(definition["jitter_ms"]),
        "overlap_policy": definition["overlap"],
        "catchup": definition["catchup"],
        "catchup_window_seconds": _seconds(definition["catchup_window_ms"]),
        "pause_on_failure": bool(definition["pause_on_failure"]),
        "paused": row.paused,
        "pause_note": row.pause_note,
        "initial_input": {
            "type": "text",
            "author": definition["input_author"],
            "content": definition["input_content"],
        },
        "initial_input_method": _input_method(config, row.agent),
        "task_params": json.loads(definition["task_params"]),
        "task_metadata": json.loads(definition["task_metadata"]),
        "state": "deleted" if row.deleted_at else "paused" if row.paused else "active",
        "next_action_times": [format_instant(due) for due in times],
        "skipped_action_times": skips,
        **_figures(connection, row.id),
        "creator_principal": row.creator,
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _figures(connection: sqlite3.Connection, schedule_id: int) -> dict[str, Any]:
    started = connection.execute(
        "SELECT count(*) AS n, max(scheduled_for) AS last FROM fires WHERE schedule_id = ? AND outcome = 'launched'",
        (schedule_id,),
    ).fetchone()
    missed = connection.execute(
        "SELECT coalesce(sum(coalesce(covers_count, 1)), 0) AS n FROM fires "
        "WHERE schedule_id = ? AND outcome = 'skipped_missed'",
        (schedule_id,),
    ).fetchone()
    return {
        "last_action_time": started["last"],
        "num_actions_taken": started["n"],
        "missed_count": missed["n"],
    }


def _input_method(config: Config, agent: str) -> str | None:
    """Say how the input reaches the agent; computed from its settings, never stored."""
    settings = config.agents.get(agent)
    if isinstance(settings, CommandAgent):
        return settings.input
    if isinstance(settings, AgentexAgent):
        return "message/send" if settings.acp_type == "sync" else "event/send"
    return None


def _seconds(milliseconds: int | None) -> float | int | None:
    if milliseconds is None:
        return None
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def list_schedules(connection: sqlite3.Connection, agent: str | None) -> list[ScheduleRow]:
    """Return the live schedules, of one agent or of all, by address."""
    rows = connection.execute(
        "SELECT * FROM schedules WHERE deleted_at IS NULL AND (?1 IS NULL OR agent = ?1) ORDER BY agent, name",
        (agent,),
    )
    return [schedule_from(row) for row in rows]


def run_view(run: Run) -> dict[str, Any]:
    """Return one run."""
    return {
        "id": run.id,
        "name": run.name,
        "display_name": run.display_name,
        "agent": run.agent,
        "schedule": run.address,
        "schedule_id": run.schedule_id,
        "trigger": run.trigger,
        "scheduled_for": run.scheduled_for,
        "attempt": run.attempt,
        "status": run.status,
        "created_at": run.created_at,
        "started_at": run.started_at,
        "delivered_at": run.delivered_at,
        "completed_at": run.completed_at,
        "updated_at": run.updated_at,
        "duration_ms": _duration_ms(run),
        "not_before": run.not_before,
        "exit_code": run.exit_code,
        "signal": run.signal,
        "error": run.error,
        "message": run.message,
        "usage": {
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "cost_usd": run.cost_usd,
        },
        "output_bytes": run.output_bytes,
        "output_dropped": run.output_dropped,
        "previous_run_id": run.previous_run_id,
        "next_run_id": run.next_run_id,
        "creator_principal": run.creator,
    }


def run_details(connection: sqlite3.Connection, run: Run) -> dict[str, Any]:
    """Return one run with its input, steps and events."""
    found = connection.execute("SELECT * FROM steps WHERE run_id = ?", (run.id,)).fetchall()
    steps = sorted(found, key=lambda row: list(Step).index(Step(row["name"])))
    events = connection.execute("SELECT * FROM events WHERE run_id = ? ORDER BY number", (run.id,))
    return {
        **run_view(run),
        "initial_input": {"type": "text", "author": run.input_author, "content": run.input_content},
        "task_params": json.loads(run.task_params),
        "task_metadata": json.loads(run.task_metadata),
        "steps": [{key: row[key] for key in ("name", "started_at", "completed_at", "error")} for row in steps],
        "events": [
            {"number": row["number"], "at": row["at"], "type": row["type"], "data": json.loads(row["data"])}
            for row in events
        ],
    }


def _duration_ms(run: Run) -> int | None:
    if run.started_at is None or run.completed_at is None:
        return None
    return (parse_instant(run.completed_at) - parse_instant(run.started_at)) // timedelta(milliseconds=1)


def list_runs(
    connection: sqlite3.Connection,
    *,
    agent: str | None = None,
    schedule: str | None = None,
    status: str | None = None,
    limit: int,
) -> tuple[list[Run], int]:
    """Return the newest runs that match, and how many match."""
    where = "WHERE (?1 IS NULL OR r.agent = ?1) AND (?2 IS NULL OR s.name = ?2) AND (?3 IS NULL OR r.status = ?3)"
    values = (agent, schedule, status)
    rows = connection.execute(f"{SELECT_RUNS} {where} ORDER BY r.id DESC LIMIT ?4", (*values, limit))
    total = connection.execute(
        f"SELECT count(*) AS n FROM runs r LEFT JOIN schedules s ON s.id = r.schedule_id {where}",
        values,
    ).fetchone()
    return [run_from(row) for row in rows], int(total["n"])


def history_view(connection: sqlite3.Connection, schedule_id: int, limit: int) -> dict[str, Any]:
    """Return the newest fires of a schedule with outcomes and reasons, and its revisions, newest first."""
    fires = connection.execute(
        "SELECT * FROM fires WHERE schedule_id = ? ORDER BY scheduled_for DESC LIMIT ?", (schedule_id, limit)
    )
    revisions = connection.execute(
        "SELECT * FROM schedule_revisions WHERE schedule_id = ? ORDER BY version DESC LIMIT ?",
        (schedule_id, limit),
    )
    return {
        "fires": [
            {
                key: row[key]
                for key in (
                    "scheduled_for",
                    "outcome",
                    "reason",
                    "run_id",
                    "decided_at",
                    "covers_until",
                    "covers_count",
                )
            }
            for row in fires
        ],
        "revisions": [
            {
                "version": row["version"],
                "at": row["at"],
                "principal": row["principal"],
                "action": row["action"],
                "changes": json.loads(row["changes"]),
                "note": row["note"],
            }
            for row in revisions
        ],
    }


def status_view(connection: sqlite3.Connection, state_dir: Path, daemon: int | None, now: datetime) -> dict[str, Any]:
    """Return how the daemon is doing: what runs now, what is next, what failed last, and the disk."""
    running = connection.execute(
        f"{SELECT_RUNS} WHERE r.completed_at IS NULL AND r.status IN ('running', 'suspended') ORDER BY r.id"
    ).fetchall()
    failed = connection.execute(
        f"{SELECT_RUNS} WHERE r.status IN ('failed', 'interrupted') ORDER BY r.id DESC LIMIT {_FEW}"
    ).fetchall()
    pending = count_pending(connection)
    following = connection.execute(
        "SELECT agent, name, next_due FROM schedules WHERE deleted_at IS NULL AND paused = 0 AND wake_at IS NOT NULL "
        "ORDER BY wake_at LIMIT ?",
        (_FEW,),
    ).fetchall()
    return {
        "daemon": {"running": daemon is not None, "pid": daemon, "uptime": _uptime(daemon, now)},
        "running": [run_view(run_from(row)) for row in running],
        "pending": pending,
        "next": [{"schedule": f"{row['agent']}/{row['name']}", "scheduled_for": row["next_due"]} for row in following],
        "last_failures": [run_view(run_from(row)) for row in failed],
        "disk": _disk(state_dir),
    }


def _uptime(pid: int | None, now: datetime) -> str | None:
    if pid is None:
        return None
    try:
        since = datetime.fromtimestamp(Path(f"/proc/{pid}").stat().st_mtime, UTC)
    except OSError:  # it ended just now
        return None
    return format_duration(now - since)


def _disk(state_dir: Path) -> dict[str, str]:
    database = sum(path.stat().st_size for path in state_dir.glob("state.db*"))
    return {"used": format_size(database), "free": format_size(shutil.disk_usage(state_dir).free)}
