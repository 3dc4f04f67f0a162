"""Schedules, runs and fires as everybody outside sees them: the bodies of `--json` and of the control API."""

import json
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any

from daemon.config.schema import A2aAgent, AcpAgent, AgentexAgent, CommandAgent, Config
from daemon.errors import InvalidError
from daemon.model import DueTime, Step
from daemon.rules.cadence import Cadence
from daemon.store.runs import SELECT_RUNS, Run, run_from
from daemon.store.schedules import ScheduleRow, schedule_from
from daemon.store.skips import pending_skips
from daemon.store.workspaces import get_workspace
from daemon.units import format_instant, parse_instant

_NEXT_TIMES = 5
_FIRE_KEYS = ("scheduled_for", "outcome", "reason", "run_id", "decided_at", "covers_until", "covers_count")


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
    skips = [at for at in pending_skips(connection, row.id) if not row.paused or at > format_instant(now)]
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
        "next_action_times": _next_times(row, now, skips),
        "skipped_action_times": skips,
        **_figures(connection, row.id),
        "creator_principal": row.creator,
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
    }


def _next_times(row: ScheduleRow, now: datetime, skips: list[str]) -> list[str] | None:
    """Return the next due times that are to be started; None for a schedule whose row somebody damaged."""
    if row.paused or row.deleted_at:
        return []
    wanted = _NEXT_TIMES + len(skips)
    try:
        times = [due for due in _following(row.cadence, row.cursor, wanted) if due > now]
        if len(times) < wanted:
            times = upcoming(row.cadence, now, wanted)
    except (ArithmeticError, LookupError, TypeError, ValueError):
        return None
    return [at for at in map(format_instant, times) if at not in skips][:_NEXT_TIMES]


@lru_cache(maxsize=4096)  # a cursor moves only when something was due: most look-ups find what an earlier one found
def _following(cadence: Cadence, cursor: datetime, count: int) -> tuple[DueTime, ...]:
    return tuple(upcoming(cadence, cursor, count))


def _figures(connection: sqlite3.Connection, schedule_id: int) -> dict[str, Any]:
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE outcome = 'launched') AS started, "
        "max(scheduled_for) FILTER (WHERE outcome = 'launched') AS last, "
        "coalesce(sum(coalesce(covers_count, 1)) FILTER (WHERE outcome = 'skipped_missed'), 0) AS missed "
        "FROM fires WHERE schedule_id = ?",
        (schedule_id,),
    ).fetchone()
    return {"last_action_time": row["last"], "num_actions_taken": row["started"], "missed_count": row["missed"]}


def _input_method(config: Config, agent: str) -> str | None:
    """Say how the input reaches the agent; computed from its settings, never stored."""
    match config.agents.get(agent):
        case CommandAgent(input=way):
            return way
        case AgentexAgent(acp_type=kind):
            return "message/send" if kind == "sync" else "event/send"
        case A2aAgent():
            return "SendMessage"
        case AcpAgent():
            return "session/prompt"
    return None


def _seconds(milliseconds: int | None) -> float | int | None:
    if milliseconds is None:
        return None
    return milliseconds // 1000 if milliseconds % 1000 == 0 else milliseconds / 1000


def schedules_page(
    connection: sqlite3.Connection, config: Config, now: datetime, agent: str | None, limit: int, cursor: str | None
) -> dict[str, Any]:
    """Return live schedules by address, of one agent or of all; the cursor is the last page's last address."""
    begin = tuple(("/" if cursor is None else cursor).split("/", 1))
    if len(begin) != 2:  # noqa: PLR2004 - agent and name
        raise InvalidError(f"cursor: {cursor!r} is none that a list gave")
    rows = connection.execute(
        "SELECT * FROM schedules WHERE deleted_at IS NULL AND (?1 IS NULL OR agent = ?1) AND (agent, name) > (?2, ?3) "
        "ORDER BY agent, name LIMIT ?4",
        (agent, *begin, limit),
    )
    found = [schedule_from(row) for row in rows]
    total = connection.execute(
        "SELECT count(*) AS n FROM schedules WHERE deleted_at IS NULL AND (?1 IS NULL OR agent = ?1)", (agent,)
    ).fetchone()["n"]
    views = [schedule_view(connection, row, config, now) for row in found]
    return {"run_schedules": views, "total": total, "next_cursor": found[-1].address if len(found) == limit else None}


def run_view(run: Run) -> dict[str, Any]:
    """Return one run."""
    return {
        "id": run.id,
        "name": run.name,
        "display_name": run.display_name,
        "agent": run.agent,
        "schedule": run.address,
        "timezone": run.timezone,
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
        "memory_peak_bytes": run.memory_peak_bytes,
        "cpu_seconds": run.cpu_seconds,
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
        "workspace": _workspace_of(connection, run.id),
    }


def _workspace_of(connection: sqlite3.Connection, run_id: int) -> dict[str, Any] | None:
    """Return where a run of a git environment works, and what was saved of it when that was removed."""
    workspace = get_workspace(connection, run_id)
    if workspace is None:
        return None
    cleaned = connection.execute(
        "SELECT data FROM events WHERE run_id = ? AND type = 'workspace_cleaned' ORDER BY number DESC LIMIT 1",
        (run_id,),
    ).fetchone()
    saved = json.loads(cleaned["data"]).get("saved") if cleaned and workspace.state == "removed" else None
    names = ("environment", "path", "state", "kept", "base", "bytes", "created_at", "removed_at", "note")
    return {**{name: getattr(workspace, name) for name in names}, "saved": saved}


def _duration_ms(run: Run) -> int | None:
    if run.started_at is None or run.completed_at is None:
        return None
    return (parse_instant(run.completed_at) - parse_instant(run.started_at)) // timedelta(milliseconds=1)


def runs_page(
    connection: sqlite3.Connection,
    *,
    agents: list[str] | None = None,
    only: int | None = None,
    agent: str | None = None,
    address: str | None = None,
    status: str | None = None,
    limit: int,
    cursor: str | None = None,
) -> dict[str, Any]:
    """Return the newest runs that match, and how many match.

    `agents` are those that may be seen, None for all; `only` is the one run that may be. `address` is a schedule's. The
    cursor is the run that the last page ended with.
    """
    values: dict[str, Any] = {"agent": agent, "of": None, "schedule": None, "status": status, "only": only}
    if address is not None:
        values["of"], _, values["schedule"] = address.partition("/")
    conditions = {
        "agent": "r.agent = :agent",
        "of": "r.agent = :of",
        "schedule": "s.name = :schedule",
        "status": "r.status = :status",
        "only": "r.id = :only",
    }
    chosen = [text for name, text in conditions.items() if values[name] is not None]
    if agents is not None and only is None:
        values["agents"] = json.dumps(agents)
        chosen.append("r.agent IN (SELECT value FROM json_each(:agents))")
    where = " AND ".join(chosen) or "1"
    values |= {"limit": limit, "cursor": _number(cursor)}
    rows = connection.execute(f"{SELECT_RUNS} WHERE {where} AND r.id < :cursor ORDER BY r.id DESC LIMIT :limit", values)
    found = [run_view(run_from(row)) for row in rows]
    joined = "runs r LEFT JOIN schedules s ON s.id = r.schedule_id" if address else "runs r"
    total = connection.execute(f"SELECT count(*) AS n FROM {joined} WHERE {where}", values).fetchone()["n"]
    return {"runs": found, "total": total, "next_cursor": str(found[-1]["id"]) if len(found) == limit else None}


def fires_page(connection: sqlite3.Connection, schedule_id: int, limit: int, cursor: str | None) -> dict[str, Any]:
    """Return the newest fires of a schedule; the cursor is the due time that the last page ended with."""
    try:
        before = "~" if cursor is None else format_instant(parse_instant(cursor))
    except ValueError:
        raise InvalidError(f"cursor: {cursor!r} is none that a list gave") from None
    rows = connection.execute(
        "SELECT * FROM fires WHERE schedule_id = ? AND scheduled_for < ? ORDER BY scheduled_for DESC LIMIT ?",
        (schedule_id, before, limit),
    )
    found = [{key: row[key] for key in _FIRE_KEYS} for row in rows]
    total = connection.execute("SELECT count(*) AS n FROM fires WHERE schedule_id = ?", (schedule_id,)).fetchone()["n"]
    return {"fires": found, "total": total, "next_cursor": found[-1]["scheduled_for"] if len(found) == limit else None}


def revisions_page(connection: sqlite3.Connection, schedule_id: int, limit: int, cursor: str | None) -> dict[str, Any]:
    """Return the newest revisions of a schedule; the cursor is the version that the last page ended with."""
    rows = connection.execute(
        "SELECT * FROM schedule_revisions WHERE schedule_id = ? AND version < ? ORDER BY version DESC LIMIT ?",
        (schedule_id, _number(cursor), limit),
    )
    found = [
        {
            "version": row["version"],
            "at": row["at"],
            "principal": row["principal"],
            "action": row["action"],
            "changes": _changes_view(json.loads(row["changes"])),
            "note": row["note"],
        }
        for row in rows
    ]
    total = connection.execute(
        "SELECT count(*) AS n FROM schedule_revisions WHERE schedule_id = ?", (schedule_id,)
    ).fetchone()["n"]
    following = str(found[-1]["version"]) if len(found) == limit else None
    return {"revisions": found, "total": total, "next_cursor": following}


def _number(cursor: str | None) -> int:
    if cursor is None:
        return 2**63 - 1
    if not (cursor.isascii() and cursor.isdigit() and len(cursor) < 19):  # noqa: PLR2004 - fits into 63 bits
        raise InvalidError(f"cursor: {cursor!r} is none that a list gave")
    return int(cursor)


def _changes_view(changes: dict[str, Any]) -> dict[str, list[Any]]:
    """Return the changes of a revision under the names and in the units of the API."""
    found: dict[str, list[Any]] = {}
    for column, pair in changes.items():
        before, after = pair if isinstance(pair, list) else (None, pair)
        name, convert = _API_KEYS.get(column, (column, _same))
        found[name] = [None if value is None else convert(value) for value in (before, after)]
    return found


def _same(value: Any) -> Any:  # noqa: ANN401 - any value
    return value


_API_KEYS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "cron": ("cron_expression", _same),
    "every_ms": ("interval_seconds", _seconds),
    "offset_ms": ("offset_seconds", _seconds),
    "jitter_ms": ("jitter_seconds", _seconds),
    "catchup_window_ms": ("catchup_window_seconds", _seconds),
    "overlap": ("overlap_policy", _same),
    "pause_on_failure": ("pause_on_failure", bool),
    "paused": ("paused", bool),
    "input_author": ("initial_input.author", _same),
    "input_content": ("initial_input.content", _same),
    "task_params": ("task_params", json.loads),
    "task_metadata": ("task_metadata", json.loads),
}


def history_view(connection: sqlite3.Connection, schedule_id: int, limit: int) -> dict[str, Any]:
    """Return the newest fires of a schedule with outcomes and reasons, and its revisions, newest first."""
    return {
        "fires": fires_page(connection, schedule_id, limit, None)["fires"],
        "revisions": revisions_page(connection, schedule_id, limit, None)["revisions"],
    }
