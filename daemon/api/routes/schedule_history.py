"""The routes of a schedule's history: outcomes of its due times, and its revisions."""

from aiohttp import web

from daemon.api import requests
from daemon.api.routing import ApiCall, Route
from daemon.api.schedule_columns import text_of
from daemon.api.schedule_in_path import SCHEDULE, SCHEDULE_BY_ID, FindSchedule, schedule_by_id, schedule_by_name
from daemon.views.history import Chosen, FireList, RevisionList, fires_page, revisions_page
from daemon.views.pages import PAGE_BYTES


async def _fires(call: ApiCall) -> web.StreamResponse:
    return await _fires_of(call, await schedule_by_name(call))


async def _fires_numbered(call: ApiCall) -> web.StreamResponse:
    return await _fires_of(call, await schedule_by_id(call))


async def _fires_of(call: ApiCall, find: FindSchedule) -> web.StreamResponse:
    page = call.query(requests.FireQuery)
    chosen = Chosen(text_of("from", page.from_), text_of("to", page.to), page.outcome)
    return await call.answer(lambda c: fires_page(c, find(c).id, page.limit, page.cursor, PAGE_BYTES, chosen))


async def _revisions(call: ApiCall) -> web.StreamResponse:
    return await _revisions_of(call, await schedule_by_name(call))


async def _revisions_numbered(call: ApiCall) -> web.StreamResponse:
    return await _revisions_of(call, await schedule_by_id(call))


async def _revisions_of(call: ApiCall, find: FindSchedule) -> web.StreamResponse:
    page = call.query(requests.Span)
    chosen = Chosen(text_of("from", page.from_), text_of("to", page.to))
    return await call.answer(lambda c: revisions_page(c, find(c).id, page.limit, page.cursor, PAGE_BYTES, chosen))


ROUTES = [
    Route(
        "GET",
        f"{SCHEDULE}/fires",
        "outcomes of the due times",
        _fires,
        FireList,
        query=requests.FireQuery,
        refusals=(400, 404),
    ),
    Route(
        "GET",
        f"{SCHEDULE}/revisions",
        "who changed the schedule, when and what",
        _revisions,
        RevisionList,
        query=requests.Span,
        refusals=(400, 404),
    ),
    Route(
        "GET",
        f"{SCHEDULE_BY_ID}/fires",
        "outcomes of the due times of a schedule, also a deleted one",
        _fires_numbered,
        FireList,
        query=requests.FireQuery,
        refusals=(400, 404),
    ),
    Route(
        "GET",
        f"{SCHEDULE_BY_ID}/revisions",
        "who changed a schedule, also a deleted one",
        _revisions_numbered,
        RevisionList,
        query=requests.Span,
        refusals=(400, 404),
    ),
]
