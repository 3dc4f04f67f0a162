"""Runs, and pages of runs, as the API and `--json` show them."""

import json
import re
import shlex
import sqlite3
from datetime import timedelta
from pathlib import Path
from typing import Any

from typing_extensions import TypedDict

from daemon.config.schema import Config
from daemon.model import RunStatus, Step, Trigger
from daemon.rules.pools import Pools
from daemon.runs.settings import settings_of
from daemon.store.events import EVENT_DATA
from daemon.store.rows import row_of, shown
from daemon.store.run_notifications import notifications_of
from daemon.store.runs import SELECT_RUNS_WITHOUT_INPUT, Run, run_from
from daemon.store.workspaces import Workspace, get_workspace
from daemon.units import parse_instant
from daemon.views.pages import PAGE_BYTES, check_span, number_of, page_of
from daemon.views.pools import pools_now
from daemon.views.resumption import resume_command

_MOST_EVENTS = 1000
_PAUSED = "its schedule is paused"


class RunView(TypedDict):
    """A run."""

    id: int
    name: str
    display_name: str
    agent: str
    schedule: str | None
    timezone: str | None
    schedule_id: int | None
    trigger: Trigger
    scheduled_for: str
    attempt: int
    status: RunStatus
    waiting_for: str | None
    created_at: str
    started_at: str | None
    delivered_at: str | None
    completed_at: str | None
    updated_at: str
    duration_ms: int | None
    not_before: str | None
    exit_code: int | None
    signal: int | None
    error: str | None
    failure_kind: str | None
    message: str | None
    session: str | None
    resumed_session: str | None
    denials: int
    usage: dict[str, float | None]
    usage_state: str | None
    output_bytes: int | None
    output_dropped: int | None
    memory_peak_bytes: int | None
    cpu_seconds: float | None
    previous_run_id: int | None
    next_run_id: int | None
    creator_principal: str


class RunDetails(RunView):
    """A run with its input, steps, events (the newest 1,000), notifications (up to 100) and workspace.

    `resume_command` is how a person continues its session, as long as the place exists where it is found.
    """

    result_format: str
    initial_input: dict[str, str]
    task_params: dict[str, Any]
    task_metadata: dict[str, Any]
    steps: list[dict[str, Any]]
    events: list[dict[str, Any]]
    notifications: list[dict[str, Any]]
    workspace: dict[str, Any] | None
    resume_command: str | None


class RunList(TypedDict):
    """Runs, newest first."""

    runs: list[RunView]
    total: int
    next_cursor: str | None


def run_view(run: Run, pools: Pools | None = None) -> RunView:
    """Return one run; what it waits for is known with the pools as they stand."""
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
        "waiting_for": _wait_of(run, pools) if run.status is RunStatus.PENDING else None,
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
        "failure_kind": run.failure_kind,
        "message": run.message,
        "session": run.session,
        "resumed_session": run.resumed_session,
        "denials": run.denials,
        "usage": {
            "input_tokens": run.input_tokens,
            "output_tokens": run.output_tokens,
            "cost_usd": run.cost_usd,
        },
        "usage_state": run.usage_state,
        "output_bytes": run.output_bytes,
        "output_dropped": run.output_dropped,
        "memory_peak_bytes": run.memory_peak_bytes,
        "cpu_seconds": run.cpu_seconds,
        "previous_run_id": run.previous_run_id,
        "next_run_id": run.next_run_id,
        "creator_principal": run.creator,
    }


def _wait_of(run: Run, pools: Pools | None) -> str | None:
    """Return what a pending run waits for, None if that is only its turn."""
    if run.is_held_back:
        return _PAUSED
    return None if pools is None else pools.wait_of(run.agent, requested=bool(run.requested))


def run_details(connection: sqlite3.Connection, run: Run, state_dir: Path, config: Config) -> RunDetails:
    """Return one run with its input, steps, newest events and workspace, whose saved work is below `state_dir` now.

    `config` says which pools the run waits for, and where its agent works.

    Raise DamagedRowError.
    """
    with row_of(f"run {run.id}"):
        return _run_details(connection, run, state_dir, config)


def _run_details(connection: sqlite3.Connection, run: Run, state_dir: Path, config: Config) -> RunDetails:
    found = connection.execute(
        f"SELECT name, started_at, completed_at, {shown('error')} AS error FROM steps WHERE run_id = ?", (run.id,)
    ).fetchall()
    steps = sorted(found, key=lambda row: list(Step).index(Step(row["name"])))
    newest = connection.execute(
        f"SELECT number, at, type, {EVENT_DATA} AS data FROM events WHERE run_id = ? ORDER BY number DESC LIMIT ?",
        (run.id, _MOST_EVENTS),
    )
    events = reversed(page_of(newest, _MOST_EVENTS, PAGE_BYTES)[0])
    workspace = get_workspace(connection, run.id)
    return {
        **run_view(run, pools_now(connection, config)),
        "result_format": settings_of(run).result_format,
        "initial_input": {"type": "text", "author": run.input_author, "content": run.input_content},
        "task_params": json.loads(run.task_params),
        "task_metadata": json.loads(run.task_metadata),
        "steps": [{key: row[key] for key in ("name", "started_at", "completed_at", "error")} for row in steps],
        "events": [
            {"number": row["number"], "at": row["at"], "type": row["type"], "data": json.loads(row["data"])}
            for row in events
        ],
        "notifications": notifications_of(connection, run.id),
        "workspace": None if workspace is None else _workspace_view(connection, workspace, state_dir),
        "resume_command": resume_command(run, workspace, state_dir, config),
    }


def _workspace_view(connection: sqlite3.Connection, workspace: Workspace, state_dir: Path) -> dict[str, Any]:
    """Return the workspace of a run in a git environment, with what was saved if it was removed."""
    run_id = workspace.run_id
    saved = _newest_saved(connection, run_id) if workspace.state == "removed" else None
    if saved is not None:
        place = (workspace.environment, saved["folder"], state_dir)
        saved["restore"] = [_as_of_now(step, run_id, *place) for step in saved["restore"]]
    names = ("environment", "path", "state", "kept", "base", "bytes", "created_at", "removed_at", "note")
    return {**{name: getattr(workspace, name) for name in names}, "saved": saved}


def _newest_saved(connection: sqlite3.Connection, run_id: int) -> dict[str, Any] | None:
    """Return what was last saved; where nothing ever was, what the last removal found instead, None if unknown."""
    events = connection.execute(
        f"SELECT {EVENT_DATA} AS data FROM events WHERE run_id = ? AND type IN ('workspace_cleaned', 'workspace_lost') "
        "ORDER BY number DESC",
        (run_id,),
    )
    newest = None
    for number, row in enumerate(events):
        saved: dict[str, Any] | None = json.loads(row["data"]).get("saved")
        if saved is not None and saved["folder"] is not None:
            return saved
        if number == 0:
            newest = saved
    return newest


def _as_of_now(step: str, run_id: int, environment: str, folder: str | None, state_dir: Path) -> str:
    """Return a command that restores saved work with the paths of today: the state directory may have been moved."""
    place = state_dir / "runs" / str(run_id) / (folder or "")
    if step.startswith("saved="):
        return f"saved={shlex.quote(str(place))}"
    if step.startswith("mirror="):
        return f"mirror={shlex.quote(str(state_dir / 'environments' / environment / 'mirror'))}"
    if folder is None or "$saved" in step:
        return step
    before = rf"('[^']*|[^\s']*)/runs/{run_id}/{re.escape(folder)}'?(?=/)"  # as earlier versions wrote it
    return re.sub(before, lambda _: shlex.quote(str(place)), step)


def _duration_ms(run: Run) -> int | None:
    if run.started_at is None or run.completed_at is None:
        return None
    try:
        return (parse_instant(run.completed_at) - parse_instant(run.started_at)) // timedelta(milliseconds=1)
    except ValueError:  # somebody edited the row
        return None


def runs_page(
    connection: sqlite3.Connection,
    *,
    agents: list[str] | None = None,
    only: int | None = None,
    agent: str | None = None,
    address: str | None = None,
    status: str | None = None,
    first: str | None = None,
    last: str | None = None,
    limit: int,
    cursor: str | None = None,
    most: int | None = None,
    config: Config | None = None,
) -> RunList:
    """Return a page of the runs that match, newest first, and how many match.

    `agents` are the visible agents, None for all; `only` is the only visible run. `address` is that of a schedule, with
    `@ID` of that one alone among those that had the name. `first` and `last` (UTC text) bound the due time. The cursor
    is the last run of the previous page. A page has about `most` bytes, None: any number. With a
    config, runs say also which pools they wait for. Raise InvalidError if `first` is after `last`.
    """
    check_span(first, last)
    values: dict[str, Any] = {"agent": agent, "of": None, "schedule": None, "number": None}
    values |= {"status": status, "only": only, "first": first, "last": last}
    if address is not None:
        name, _, number = address.partition("@")
        values["of"], _, values["schedule"] = name.partition("/")
        values["number"] = int(number) if number else None
    conditions = {
        "agent": "r.agent = :agent",
        "of": "r.agent = :of",
        "schedule": "s.name = :schedule",
        "number": "s.id = :number",
        "status": "r.status = :status",
        "only": "r.id = :only",
        "first": "r.scheduled_for >= :first",
        "last": "r.scheduled_for <= :last",
    }
    chosen = [text for name, text in conditions.items() if values[name] is not None]
    if agents is not None and only is None:
        values["agents"] = json.dumps(agents)
        chosen.append("r.agent IN (SELECT value FROM json_each(:agents))")
    where = " AND ".join(chosen) or "1"
    values |= {"limit": limit, "cursor": number_of(cursor)}
    rows = connection.execute(
        f"{SELECT_RUNS_WITHOUT_INPUT} WHERE {where} AND r.id < :cursor ORDER BY r.id DESC LIMIT :limit", values
    )
    page, more = page_of(rows, limit, most)
    pools = None if config is None else pools_now(connection, config)
    found = [run_view(run_from(row), pools) for row in page]
    joined = "runs r LEFT JOIN schedules s ON s.id = r.schedule_id" if address else "runs r"
    total = connection.execute(f"SELECT count(*) AS n FROM {joined} WHERE {where}", values).fetchone()["n"]
    return {"runs": found, "total": total, "next_cursor": str(found[-1]["id"]) if more else None}
