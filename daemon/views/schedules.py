"""Schedules, with their state and next due times, as the API and `--json` show them."""

import sqlite3
from collections.abc import Collection
from datetime import datetime
from functools import lru_cache
from typing import Any, Literal, cast

from typing_extensions import TypedDict

from daemon.config.schema import A2aAgent, AcpAgent, AgentexAgent, CommandAgent, Config
from daemon.fires.blocked import no_cadence_reason, reason_of
from daemon.model import DueTime
from daemon.rules.cadence import Cadence
from daemon.rules.schedule_fields import FIELDS
from daemon.store.notifications import is_denied
from daemon.store.schedules import SELECT_SCHEDULES, SELECT_WITHOUT_INPUT, UNDECIDABLE, ScheduleRow, schedule_from
from daemon.store.skips import pending_skips
from daemon.units import format_instant
from daemon.views.pages import number_of, page_of, unknown_cursor

_NEXT_TIMES = 5
INPUTS = ("initial_input", "task_params", "task_metadata")
"""The keys that may be large, and that a list has only if they are asked for."""
_ACTIVE = "FROM runs WHERE schedule_id = ?1 AND completed_at IS NULL"
_SHOWN = [(field.api, field.column, field.kind.to_api) for field in FIELDS]


ScheduleState = Literal["active", "paused", "deleted", "denied", "no_agent", "no_cadence", "ended"]
"""`denied`: its creator lost the right to start its agent. `no_cadence`: it is unknown when it is due, for example
because this host lacks its time zone. `ended`: it has no due time left."""


class _Identity(TypedDict):
    id: int
    agent: str
    name: str
    source: Literal["declared", "created"]


class _Figures(TypedDict):
    last_action_time: str | None
    num_actions_taken: int
    missed_count: int
    waiting_runs: int
    running_runs: int


class _State(_Figures):
    pause_note: str | None
    initial_input_method: str | None
    state: ScheduleState
    state_reason: str | None
    next_action_times: list[str] | None
    skipped_action_times: list[str]
    creator_principal: str
    version: int
    created_at: str
    updated_at: str
    deleted_at: str | None


class ScheduleView(_Identity, _State):
    """A schedule with its state and figures; computed fields are null if its row is damaged."""

    # it also has the keys of the field table; `/openapi.json` takes their types from there


class StoppedSchedule(ScheduleView):
    """A schedule that was paused or deleted, and how many runs that cancelled; a pause lets `waiting_runs` wait."""

    cancelled_runs: int


class ListedSchedule(_Identity, _State):
    """A schedule in a list; it has its input, parameters and metadata only if they were asked for."""


class ScheduleList(TypedDict):
    """The schedules of one agent, by name."""

    run_schedules: list[ListedSchedule]
    total: int
    next_cursor: str | None


def upcoming(cadence: Cadence, after: datetime, count: int, skips: Collection[str] = ()) -> list[DueTime]:
    """Return the next due times strictly after an instant, without those that are to be skipped."""
    times: list[DueTime] = []
    due = cadence.next_after(after)
    while due is not None and len(times) < count:
        if not skips or format_instant(due) not in skips:
            times.append(due)
        due = cadence.next_after(due)
    return times


def schedule_view(connection: sqlite3.Connection, row: ScheduleRow, config: Config, now: datetime) -> ScheduleView:
    """Return one schedule with its state, next due times and figures."""
    skips = [at for at in pending_skips(connection, row.id) if not row.paused or at > format_instant(now)]
    identity: _Identity = {"id": row.id, "agent": row.agent, "name": row.name, "source": row.source}
    times = _next_times(row, now, skips)
    state = _state_of(connection, row, config, times)
    shown: _State = {
        "pause_note": row.pause_note,
        "initial_input_method": _input_method(config, row.agent),
        "state": state,
        "state_reason": _reason_of(state, row),
        "next_action_times": times if state == "active" or times is None else [],
        "skipped_action_times": skips,
        **_figures(connection, row.id),
        "creator_principal": row.creator,
        "version": row.version,
        "created_at": row.created_at,
        "updated_at": row.updated_at,
        "deleted_at": None if row.deleted_at is None else format_instant(row.deleted_at),
    }
    return cast("ScheduleView", {**identity, **_fields(row), **shown})


def _state_of(
    connection: sqlite3.Connection, row: ScheduleRow, config: Config, times: list[str] | None
) -> ScheduleState:
    if row.deleted_at:
        return "deleted"
    if row.paused:
        return "paused"
    if config.agents and row.agent not in config.agents:  # a config without agents has errors
        return "no_agent"
    if is_denied(connection, row.id):
        return "denied"
    if times is None:
        return "no_cadence"
    return "active" if row.next_due is not None else "ended"


def _reason_of(state: ScheduleState, row: ScheduleRow) -> str | None:
    """Return why a schedule can start nothing, None in any other state."""
    if state == "denied" or state == "no_agent":  # noqa: PLR1714 - which narrows the type
        return reason_of(state, row.creator, row.agent)
    return no_cadence_reason(row.definition["timezone"]) if state == "no_cadence" else None


def _fields(row: ScheduleRow) -> dict[str, Any]:
    columns = {**row.definition, "paused": row.paused}
    found = {name: None if (value := columns[column]) is None else shown(value) for name, column, shown in _SHOWN}
    author, content = found.pop("initial_input.author"), found.pop("initial_input.content")
    return {**found, "initial_input": {"type": "text", "author": author, "content": content}}


def _next_times(row: ScheduleRow, now: datetime, skips: list[str]) -> list[str] | None:
    """Return the next due times that are not skipped; None for a schedule with a damaged row."""
    if row.paused or row.deleted_at:
        return []
    wanted = _NEXT_TIMES + len(skips)
    try:
        times = [due for due in _following(row.cadence, row.cursor, wanted) if due > now]
        if len(times) < wanted:
            times = upcoming(row.cadence, now, wanted)
    except UNDECIDABLE:
        return None
    return [at for at in map(format_instant, times) if at not in skips][:_NEXT_TIMES]


@lru_cache(maxsize=4096)  # a cursor moves only when the schedule was due, so most calls repeat an earlier one
def _following(cadence: Cadence, cursor: datetime, count: int) -> tuple[DueTime, ...]:
    return tuple(upcoming(cadence, cursor, count))


def _figures(connection: sqlite3.Connection, schedule_id: int) -> _Figures:
    row = connection.execute(
        "SELECT count(*) FILTER (WHERE outcome = 'launched') AS started, "
        "max(scheduled_for) FILTER (WHERE outcome = 'launched') AS last, "
        "CAST(total(coalesce(covers_count, 1)) FILTER (WHERE outcome = 'skipped_missed') AS INTEGER) AS missed, "
        f"(SELECT count(*) {_ACTIVE} AND status = 'pending') AS waiting, "
        f"(SELECT count(*) {_ACTIVE} AND status <> 'pending') AS running FROM fires WHERE schedule_id = ?1",
        (schedule_id,),
    ).fetchone()
    return {
        "last_action_time": row["last"],
        "num_actions_taken": row["started"],
        "missed_count": row["missed"],
        "waiting_runs": row["waiting"],
        "running_runs": row["running"],
    }


def _input_method(config: Config, agent: str) -> str | None:
    """Return how the input is passed to the agent; computed from its settings, never stored."""
    match config.agents.get(agent):
        case CommandAgent(input=method):
            return method
        case AgentexAgent(acp_type=kind):
            return "message/send" if kind == "sync" else "event/send"
        case A2aAgent():
            return "SendMessage"
        case AcpAgent():
            return "session/prompt"
    return None


def schedules_page(
    connection: sqlite3.Connection,
    config: Config,
    now: datetime,
    agent: str | None,
    limit: int,
    cursor: str | None,
    *,
    inputs: bool,
    most: int | None = None,
) -> ScheduleList:
    """Return a page of live schedules by address, of one agent or all; the cursor is the last address before it.

    `inputs`: with their inputs, parameters and metadata. A page has about `most` bytes, None: any number.
    """
    begin = tuple(("/" if cursor is None else cursor).split("/", 1))
    if len(begin) != 2:  # noqa: PLR2004 - agent and name
        raise unknown_cursor(cursor or "")
    select = SELECT_SCHEDULES if inputs else SELECT_WITHOUT_INPUT
    rows = connection.execute(
        f"{select} WHERE deleted_at IS NULL AND (?1 IS NULL OR agent = ?1) "
        "AND (agent, name) > (?2, ?3) ORDER BY agent, name LIMIT ?4",
        (agent, *begin, limit),
    )
    page, more = page_of(rows, limit, most)
    total = connection.execute(
        "SELECT count(*) AS n FROM schedules WHERE deleted_at IS NULL AND (?1 IS NULL OR agent = ?1)", (agent,)
    ).fetchone()["n"]
    found = [schedule_from(row) for row in page]
    views = [_listed(schedule_view(connection, row, config, now), inputs=inputs) for row in found]
    return {"run_schedules": views, "total": total, "next_cursor": found[-1].address if more else None}


def deleted_page(
    connection: sqlite3.Connection,
    config: Config,
    now: datetime,
    agent: str | None,
    limit: int,
    cursor: str | None,
    *,
    inputs: bool,
    most: int | None = None,
) -> ScheduleList:
    """Return a page of deleted schedules, the newest number first; the cursor is the last number before it."""
    which = "WHERE deleted_at IS NOT NULL AND (?1 IS NULL OR agent = ?1)"
    select = SELECT_SCHEDULES if inputs else SELECT_WITHOUT_INPUT
    rows = connection.execute(
        f"{select} {which} AND id < ?2 ORDER BY id DESC LIMIT ?3", (agent, number_of(cursor), limit)
    )
    page, more = page_of(rows, limit, most)
    total = connection.execute(f"SELECT count(*) AS n FROM schedules {which}", (agent,)).fetchone()["n"]
    found = [schedule_from(row) for row in page]
    views = [_listed(schedule_view(connection, row, config, now), inputs=inputs) for row in found]
    return {"run_schedules": views, "total": total, "next_cursor": str(found[-1].id) if more else None}


def _listed(view: ScheduleView, *, inputs: bool) -> ListedSchedule:
    shown = view if inputs else {key: value for key, value in view.items() if key not in INPUTS}
    return cast("ListedSchedule", shown)
