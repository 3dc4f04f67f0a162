"""The routes of schedules."""

import sqlite3
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from types import MappingProxyType

from aiohttp import web
from pydantic import BaseModel

from daemon.access import Action
from daemon.allowance import Kind
from daemon.api import requests
from daemon.api.cache import Answer
from daemon.api.json_body import etag, to_json
from daemon.api.routing import IF_MATCH, ApiCall, Handler, Route, written
from daemon.api.schedule_columns import changed_columns, check_for_agent, instant, new_columns
from daemon.api.schedule_in_path import SCHEDULE, SCHEDULE_BY_ID, SCHEDULES, schedule_by_id, schedule_of
from daemon.errors import NotFoundError
from daemon.schedules import management
from daemon.schedules.management import ChangeRequest
from daemon.store.connection import Transaction
from daemon.store.limits import size_of_revision
from daemon.store.schedules import ScheduleRow
from daemon.units import format_instant, utc_now
from daemon.views.pages import PAGE_BYTES
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


async def _create(call: ApiCall) -> web.StreamResponse:
    agent = call.agent
    await call.require("agent.update", agent, f"agent {agent}")
    if agent not in call.context.config.agents:
        raise NotFoundError(f"no agent {agent!r} is in the config")
    body = await call.body(requests.ScheduleCreate)
    columns = new_columns(body, call.context.config.daemon.timezone)
    check_for_agent(columns, call.context.config.agents[agent])
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
            lambda: schedule_view(connection, schedule_of(connection, agent, name), config, now),
        )

    answer = await call.read(query)
    return written(answer.body, ETag=etag(answer.version))


async def _update(call: ApiCall) -> web.StreamResponse:
    async def change() -> Change:
        columns = changed_columns(await call.body(requests.ScheduleChange))
        check_for_agent(columns, call.context.config.agents.get(call.agent))
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
            deleted, waiting = management.delete(tx, row, request)
            cancelled = waiting + (management.cancel_running(tx, row, request, "deleted") if query.cancel else 0)
            return deleted

        return delete

    return await _changed(call, "schedule.delete", change, lambda: {"cancelled_runs": cancelled})


async def _get_numbered(call: ApiCall) -> web.StreamResponse:
    find, config = await schedule_by_id(call), call.context.config
    return await call.answer(lambda connection: schedule_view(connection, find(connection), config, utc_now()))


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
    allowance = call.context.home.allowance
    kind = Kind.DEFINITIONS if call.route.action in _DEFINING else Kind.CHANGES
    if request.limited:
        allowance.check(request.principal, kind)

    def run(tx: Transaction) -> tuple[ScheduleRow, int]:
        row = change(tx)
        is_changed = row.updated_at == format_instant(request.now)
        return row, size_of_revision(tx, row.id, row.version) if is_changed else 0

    row, size = await call.context.home.database.write(run)
    if request.limited:
        allowance.use(request.principal, size, kind)
    return row


async def _shown(
    call: ApiCall, row: ScheduleRow, status: int = 200, more: Mapping[str, int] = MappingProxyType({})
) -> web.StreamResponse:
    def view(connection: sqlite3.Connection) -> bytes:
        return to_json({**schedule_view(connection, row, call.context.config, utc_now()), **more}).encode()

    return written(await call.read(view), status=status, ETag=etag(row.version))


_CHANGE = (400, 404, 409, 412, 429)


def _on_one(what: str, does: str, handler: Handler, body: type[BaseModel], *, body_required: bool = True) -> Route:
    return Route(
        "POST",
        f"{SCHEDULE}/{what}",
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
        SCHEDULES,
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
        SCHEDULES,
        "list the schedules of an agent",
        _list,
        ScheduleList,
        query=requests.ScheduleQuery,
        refusals=(400, 404),
    ),
    Route("GET", SCHEDULE, "show a schedule", _get, ScheduleView, refusals=(404,)),
    Route(
        "PATCH",
        SCHEDULE,
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
    _on_one("skip", "skip one upcoming due time", _skip, requests.SkipRequest),
    _on_one("unskip", "cancel the skip of a due time", _unskip, requests.SkipRequest),
    Route(
        "DELETE",
        SCHEDULE,
        "delete a schedule; its history stays",
        _delete,
        StoppedSchedule,
        query=requests.DeleteQuery,
        headers=(IF_MATCH,),
        refusals=(404, 409, 412, 429),
        action="delete",
    ),
    Route("GET", SCHEDULE_BY_ID, "show a schedule, also a deleted one", _get_numbered, ScheduleView, refusals=(404,)),
]
