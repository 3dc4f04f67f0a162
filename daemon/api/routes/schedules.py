"""The routes of schedules."""

import json
import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from datetime import timedelta
from types import MappingProxyType
from typing import Any

from aiohttp import web
from pydantic import BaseModel
from typing_extensions import TypedDict

from daemon.access import Action
from daemon.api import requests
from daemon.api.cache import Answer
from daemon.api.json_body import etag, to_json
from daemon.api.routing import IDEMPOTENCY_KEY, IF_MATCH, ApiCall, Handler, Route, reply, written
from daemon.api.schedule_columns import changed_columns, input_columns, instant, new_columns, text_of
from daemon.config.effective import days_of
from daemon.errors import NotFoundError
from daemon.fires.backfill import Backfilled, backfill
from daemon.model import Overlap
from daemon.schedules import management
from daemon.schedules.management import ChangeRequest
from daemon.store.connection import Transaction
from daemon.store.limits import check_backfilled, size_of_revision
from daemon.store.runs import get_run, waiting_of
from daemon.store.schedules import ScheduleRow, get_schedule, get_schedule_by_id
from daemon.units import format_instant, utc_now
from daemon.views.history import Chosen, FireList, RevisionList, fires_page, revisions_page
from daemon.views.pages import PAGE_BYTES
from daemon.views.runs import RunView, run_view
from daemon.views.schedules import (
    ScheduleList,
    ScheduleView,
    StoppedSchedule,
    deleted_page,
    schedule_view,
    schedules_page,
)

_DEFINING = {"create", "update"}  # actions that may store large values
Change = Callable[[Transaction, ScheduleRow, ChangeRequest], ScheduleRow]


class BackfillView(TypedDict):
    """What a backfill started, and the due times that it left alone."""

    backfilled: int
    already_run: int
    skipped_overlap: int
    upcoming: int
    runs: list[int]


async def _create(call: ApiCall) -> web.StreamResponse:
    agent = call.agent
    await call.require("agent.update", agent, f"agent {agent}")
    if agent not in call.context.config.agents:
        raise NotFoundError(f"no agent {agent!r} is in the config")
    body = await call.body(requests.ScheduleCreate)
    columns = new_columns(body, call.context.config.daemon.timezone)
    request = await call.change_request()
    row = await _revised(call, request, lambda tx: management.create(tx, agent, body.name, columns, request))
    return await _shown(call, row, status=201)


async def _list(call: ApiCall) -> web.StreamResponse:
    agent, page = call.agent, call.query(requests.ScheduleQuery)
    await call.require("schedule.read", agent, f"agent {agent}")
    config, cache = call.context.config, call.context.cache

    def query(connection: sqlite3.Connection) -> Answer:
        now, place = utc_now(), (agent, page.limit, page.cursor)
        list_of = deleted_page if page.deleted else schedules_page

        def view() -> ScheduleList:
            return list_of(connection, config, now, *place, inputs=page.inputs, most=PAGE_BYTES)

        return cache.answer(connection, config, (*place, page.inputs, page.deleted), now, view)

    return written((await call.read(query)).body)


async def _get(call: ApiCall) -> web.StreamResponse:
    agent, name = call.agent, call.schedule
    await call.require("schedule.read", agent, f"schedule {agent}/{name}")

    config, cache = call.context.config, call.context.cache

    def query(connection: sqlite3.Connection) -> Answer:
        now = utc_now()
        return cache.answer(
            connection,
            config,
            (agent, name),
            now,
            lambda: schedule_view(connection, _row(connection, agent, name), config, now),
        )

    answer = await call.read(query)
    return written(answer.body, ETag=etag(answer.version))


async def _update(call: ApiCall) -> web.StreamResponse:
    async def change() -> Change:
        columns = changed_columns(await call.body(requests.ScheduleChange))
        return lambda tx, row, request: management.update(tx, row, columns, request)

    return await _changed(call, "schedule.update", change)


async def _pause(call: ApiCall) -> web.StreamResponse:
    cancelled = 0

    async def change() -> Change:
        body = await call.body(requests.PauseRequest)

        def pause(tx: Transaction, row: ScheduleRow, request: ChangeRequest) -> ScheduleRow:
            nonlocal cancelled
            paused = management.pause(tx, row, body.note, request)
            cancelled = management.cancel_running(tx, row, request, "paused") if body.cancel else 0
            return paused

        return pause

    return await _changed(call, "schedule.update", change, lambda: {"cancelled_runs": cancelled})


async def _resume(call: ApiCall) -> web.StreamResponse:
    async def change() -> Change:
        note = (await call.body(requests.Note)).note
        return lambda tx, row, request: management.resume(tx, row, note, request)

    return await _changed(call, "schedule.update", change)


async def _skip(call: ApiCall) -> web.StreamResponse:
    async def change() -> Change:
        due = instant("scheduled_time", (await call.body(requests.SkipRequest)).scheduled_time)
        return lambda tx, row, request: management.skip(tx, row, due, request)

    return await _changed(call, "schedule.update", change)


async def _unskip(call: ApiCall) -> web.StreamResponse:
    async def change() -> Change:
        due = instant("scheduled_time", (await call.body(requests.SkipRequest)).scheduled_time)
        return lambda tx, row, request: management.unskip(tx, row, due, request)

    return await _changed(call, "schedule.update", change)


async def _delete(call: ApiCall) -> web.StreamResponse:
    cancelled, query = 0, call.query(requests.DeleteQuery)

    async def change() -> Change:
        def delete(tx: Transaction, row: ScheduleRow, request: ChangeRequest) -> ScheduleRow:
            nonlocal cancelled
            waiting = len(waiting_of(tx, row.id))
            deleted = management.delete(tx, row, request)
            cancelled = waiting + (management.cancel_running(tx, row, request, "deleted") if query.cancel else 0)
            return deleted

        return delete

    return await _changed(call, "schedule.delete", change, lambda: {"cancelled_runs": cancelled})


async def _trigger(call: ApiCall) -> web.StreamResponse:
    agent, name, key = call.agent, call.schedule, call.idempotency_key
    await call.require("agent.execute", agent, f"schedule {agent}/{name}")
    call.require_configured(agent)
    body = await call.body(requests.TriggerRequest)
    overrides: dict[str, Any] = {} if body.initial_input is None else dict(input_columns(body.initial_input))
    if body.task_params is not None:
        overrides["task_params"] = json.dumps(body.task_params)
    request, instance = await call.change_request(), call.context.home.instance

    def start(tx: Transaction) -> RunView:
        run = get_run(tx, management.trigger(tx, agent, name, overrides, key, request, instance))
        if run is None:
            raise NotFoundError("the run that answered this key was deleted")
        return run_view(run)

    view = await call.context.home.database.write(start)
    return reply(view, status=201)


async def _backfill(call: ApiCall) -> web.StreamResponse:
    agent, name = call.agent, call.schedule
    await call.require("agent.execute", agent, f"schedule {agent}/{name}")
    call.require_configured(agent)
    body = await call.body(requests.BackfillRequest)
    span = instant("from", body.from_), instant("to", body.to)
    request, config = await call.change_request(), call.context.config
    days = days_of(config, config.agents[agent].retention)
    oldest = None if days is None else request.now - timedelta(days=days)

    def start(tx: Transaction) -> Backfilled:
        row = management.find(tx, agent, name, request)
        if request.limited:
            check_backfilled(tx, request.principal)
        policy = body.overlap_policy or Overlap(row.overlap)
        return backfill(
            tx,
            row,
            span,
            policy,
            principal=request.principal,
            now=request.now,
            oldest=oldest,
            instance=call.context.home.instance,
        )

    await call.context.clock.decide_overdue()
    done = await call.context.home.database.write(start)
    return reply(
        BackfillView(
            backfilled=len(done.runs),
            already_run=done.already_run,
            skipped_overlap=done.skipped_overlap,
            upcoming=done.upcoming,
            runs=done.runs,
        )
    )


Find = Callable[[sqlite3.Connection], ScheduleRow]
"""Reads the schedule that a request is about; raises NotFoundError."""


async def _named(call: ApiCall) -> Find:
    """Return how to read the live schedule in the path; raise NotFoundError for one that is not visible."""
    agent, name = call.agent, call.schedule
    await call.require("schedule.read", agent, f"schedule {agent}/{name}")
    return lambda connection: _row(connection, agent, name)


async def _numbered(call: ApiCall) -> Find:
    """Return how to read the schedule with the number in the path, deleted or not; raise NotFoundError."""
    number = call.schedule_id
    row = await call.context.home.database.read(lambda connection: get_schedule_by_id(connection, number))
    if row is None:
        raise NotFoundError(f"no schedule {number}")
    await call.require("schedule.read", row.agent, f"schedule {number}")

    def find(connection: sqlite3.Connection) -> ScheduleRow:
        return get_schedule_by_id(connection, number) or row

    return find


async def _get_numbered(call: ApiCall) -> web.StreamResponse:
    find, config = await _numbered(call), call.context.config
    return await call.answer(lambda connection: schedule_view(connection, find(connection), config, utc_now()))


async def _fires(call: ApiCall) -> web.StreamResponse:
    return await _fires_of(call, await _named(call))


async def _fires_numbered(call: ApiCall) -> web.StreamResponse:
    return await _fires_of(call, await _numbered(call))


async def _fires_of(call: ApiCall, find: Find) -> web.StreamResponse:
    page = call.query(requests.FireQuery)
    chosen = Chosen(text_of("from", page.from_), text_of("to", page.to), page.outcome)
    return await call.answer(lambda c: fires_page(c, find(c).id, page.limit, page.cursor, PAGE_BYTES, chosen))


async def _revisions(call: ApiCall) -> web.StreamResponse:
    return await _revisions_of(call, await _named(call))


async def _revisions_numbered(call: ApiCall) -> web.StreamResponse:
    return await _revisions_of(call, await _numbered(call))


async def _revisions_of(call: ApiCall, find: Find) -> web.StreamResponse:
    page = call.query(requests.Span)
    chosen = Chosen(text_of("from", page.from_), text_of("to", page.to))
    return await call.answer(lambda c: revisions_page(c, find(c).id, page.limit, page.cursor, PAGE_BYTES, chosen))


def _row(connection: sqlite3.Connection, agent: str, name: str) -> ScheduleRow:
    row = get_schedule(connection, agent, name)
    if row is None:
        raise NotFoundError(f"no schedule {agent}/{name}")
    return row


async def _changed(
    call: ApiCall, action: Action, wanted: Callable[[], Awaitable[Change]], more: Callable[[], dict[str, int]] = dict
) -> web.StreamResponse:
    """Check the right to change, read which change is wanted, decide what has come due, then change the schedule.

    The answer also has what `more` returns once the change was made.
    """
    agent, name = call.agent, call.schedule
    await call.require(action, agent, f"schedule {agent}/{name}")
    change = await wanted()
    await call.context.clock.decide_overdue()
    request = await call.change_request()
    row = await _revised(call, request, lambda tx: change(tx, management.find(tx, agent, name, request), request))
    return await _shown(call, row, more=more())


async def _revised(call: ApiCall, request: ChangeRequest, change: Callable[[Transaction], ScheduleRow]) -> ScheduleRow:
    """Make a change that leaves a revision; raise LimitError if the principal has caused too many bytes of them.

    Changes of a definition are counted apart, so that whoever has made too many of them can still pause and delete.
    """
    allowance = call.context.revisions
    brief = call.route.action not in _DEFINING
    if request.limited:
        allowance.check(request.principal, brief=brief)

    def run(tx: Transaction) -> tuple[ScheduleRow, int]:
        row = change(tx)
        is_changed = row.updated_at == format_instant(request.now)
        return row, size_of_revision(tx, row.id, row.version) if is_changed else 0

    row, size = await call.context.home.database.write(run)
    if request.limited:
        allowance.use(request.principal, size, brief=brief)
    return row


async def _shown(
    call: ApiCall, row: ScheduleRow, status: int = 200, more: Mapping[str, int] = MappingProxyType({})
) -> web.StreamResponse:
    def view(connection: sqlite3.Connection) -> bytes:
        return to_json({**schedule_view(connection, row, call.context.config, utc_now()), **more}).encode()

    return written(await call.read(view), status=status, ETag=etag(row.version))


_ALL = "/agents/{agent}/schedules"
_ONE = f"{_ALL}/{{name}}"
_BY_ID = "/schedules/{schedule_id}"
_CHANGE = (400, 404, 409, 412, 429)


def _on_one(what: str, does: str, handler: Handler, body: type[BaseModel], *, body_required: bool = True) -> Route:
    return Route(
        "POST",
        f"{_ONE}/{what}",
        does,
        handler,
        ScheduleView,
        body=body,
        body_required=body_required,
        headers=(IF_MATCH,),
        refusals=_CHANGE,
        action=what,
    )


ROUTES = [
    Route(
        "POST",
        _ALL,
        "create a schedule",
        _create,
        ScheduleView,
        status=201,
        body=requests.ScheduleCreate,
        refusals=(404, 409, 429),
        action="create",
    ),
    Route(
        "GET",
        _ALL,
        "list the schedules of an agent",
        _list,
        ScheduleList,
        query=requests.ScheduleQuery,
        refusals=(400, 404),
    ),
    Route("GET", _ONE, "show a schedule", _get, ScheduleView, refusals=(404,)),
    Route(
        "PATCH",
        _ONE,
        "change a schedule",
        _update,
        ScheduleView,
        body=requests.ScheduleChange,
        headers=(IF_MATCH,),
        refusals=_CHANGE,
        action="update",
    ),
    replace(
        _on_one("pause", "pause a schedule", _pause, requests.PauseRequest, body_required=False),
        answer=StoppedSchedule,
    ),
    _on_one("resume", "resume a schedule", _resume, requests.Note, body_required=False),
    replace(
        _on_one("trigger", "start a run now, out of band", _trigger, requests.TriggerRequest, body_required=False),
        answer=RunView,
        status=201,
        headers=(IF_MATCH, IDEMPOTENCY_KEY),
    ),
    _on_one("skip", "skip one upcoming due time", _skip, requests.SkipRequest),
    _on_one("unskip", "cancel the skip of a due time", _unskip, requests.SkipRequest),
    replace(
        _on_one("backfill", "start past due times", _backfill, requests.BackfillRequest),
        answer=BackfillView,
    ),
    Route(
        "DELETE",
        _ONE,
        "delete a schedule; its history stays",
        _delete,
        StoppedSchedule,
        query=requests.DeleteQuery,
        headers=(IF_MATCH,),
        refusals=(404, 409, 412, 429),
        action="delete",
    ),
    Route(
        "GET",
        f"{_ONE}/fires",
        "outcomes of the due times",
        _fires,
        FireList,
        query=requests.FireQuery,
        refusals=(400, 404),
    ),
    Route(
        "GET",
        f"{_ONE}/revisions",
        "who changed the schedule, when and what",
        _revisions,
        RevisionList,
        query=requests.Span,
        refusals=(400, 404),
    ),
    Route("GET", _BY_ID, "show a schedule, also a deleted one", _get_numbered, ScheduleView, refusals=(404,)),
    Route(
        "GET",
        f"{_BY_ID}/fires",
        "outcomes of the due times of a schedule, also a deleted one",
        _fires_numbered,
        FireList,
        query=requests.FireQuery,
        refusals=(400, 404),
    ),
    Route(
        "GET",
        f"{_BY_ID}/revisions",
        "who changed a schedule, also a deleted one",
        _revisions_numbered,
        RevisionList,
        query=requests.Span,
        refusals=(400, 404),
    ),
]
