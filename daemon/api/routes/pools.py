"""The routes of pools: how they stand, and pauses of one pool or of everything."""

from collections.abc import Iterable
from functools import partial

from aiohttp import web

from daemon.api import requests
from daemon.api.routing import ApiCall, Route, reply
from daemon.api.schedule_columns import instant
from daemon.errors import ForbiddenError, InvalidError, NotFoundError
from daemon.rules.pools import EVERYTHING, Closure, owner_of
from daemon.runs.pools import pause_pool, resume_pool
from daemon.store.connection import Transaction
from daemon.views.pools import PoolChangeView, PoolList, closure_views, pool_views


async def _list(call: ApiCall) -> web.StreamResponse:
    if call.principal.startswith("run:"):
        raise ForbiddenError(f"{call.principal} may see its own run only")
    config, agents = call.context.config, await call.context.access.readable_agents(call.principal)
    return await call.answer(lambda connection: PoolList(pools=pool_views(connection, config, agents)))


async def _pause(call: ApiCall) -> web.StreamResponse:
    await call.require_admin("pause pools")
    pool, body, now = _pool_of(call), await call.body(requests.PoolPause), call.context.home.now()
    until = None if body.until is None else instant("until", body.until)
    if until is not None and until <= now:
        raise InvalidError(f"until: {body.until} is past; leave it out to pause until somebody resumes")
    note, principal = body.note or "", call.principal
    pause = partial(pause_pool, pool=pool, now=now, until=until, note=note, principal=principal)
    return reply(_changed(pool, [await call.context.home.database.write(pause)]))


async def _resume(call: ApiCall) -> web.StreamResponse:
    await call.require_admin("resume pools")
    pool, now, outbox, principal = _pool_of(call), call.context.home.now(), call.context.outbox, call.principal

    def resume(tx: Transaction) -> list[Closure]:
        return resume_pool(tx, pool, now, principal, outbox)

    return reply(_changed(pool, await call.context.home.database.write(resume)))


def _changed(pool: str, changed: Iterable[Closure]) -> PoolChangeView:
    return PoolChangeView(pool=pool, closures=closure_views(changed))


def _pool_of(call: ApiCall) -> str:
    """Return the pool in the path, everything if none is named; raise NotFoundError for one that does not exist."""
    pool, config = call.request.match_info.get("pool"), call.context.config
    if pool is None:
        return EVERYTHING
    if pool not in config.pools and owner_of(pool) not in config.agents:
        known = ", ".join(sorted(config.pools)) or "none"
        raise NotFoundError(f"no pool {pool!r}; pools of the config: {known}; agent:NAME is that of one agent alone")
    return pool


ROUTES = [
    Route("GET", "/pools", "how the pools stand", _list, PoolList),
    Route(
        "POST",
        "/pools/pause",
        "pause everything: no agent's runs start",
        _pause,
        PoolChangeView,
        body=requests.PoolPause,
        body_required=False,
    ),
    Route("POST", "/pools/resume", "end the pauses of everything and of all pools", _resume, PoolChangeView),
    Route(
        "POST",
        "/pools/{pool}/pause",
        "pause a pool: no runs of its agents start",
        _pause,
        PoolChangeView,
        body=requests.PoolPause,
        body_required=False,
        refusals=(404,),
    ),
    Route("POST", "/pools/{pool}/resume", "end whatever keeps a pool closed", _resume, PoolChangeView, refusals=(404,)),
]
