"""The HTTP server of the control API: identifies principals, validates requests, and calls the routes' handlers."""

import asyncio
import os
import random
import socket
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from daemon.access import admin_uids
from daemon.api.acceptor import Acceptor, Begin
from daemon.api.admission import Admission, Holder, Rank, holder_of, network_of
from daemon.api.bodies import expect, refuse_encoded
from daemon.api.connection import Connection, TimeLimits, path_for_log, reason_of
from daemon.api.context import ApiContext
from daemon.api.errors import answer_to, refusal
from daemon.api.guesses import Guesses
from daemon.api.identity import ORDINARY, Hosts, Peer, Peers, Tokens, examine, is_cross_origin, token_in
from daemon.api.json_body import to_json
from daemon.api.openapi import describe
from daemon.api.requests import NoQuery
from daemon.api.routes import (
    hooks,
    pools,
    retention,
    runs,
    schedule_history,
    schedule_runs,
    schedules,
    service,
    workspaces,
)
from daemon.api.routing import ApiCall, Route, written
from daemon.api.sending import send
from daemon.api.sockets import Listeners, most_connections
from daemon.turns import Turns

_LOG = structlog.get_logger()
_TIME_LIMITS = TimeLimits(first_request=15.0, idle=60.0)
_TOKEN_RETRY = 5  # seconds after which a client with too many wrong tokens may try again
_TOKEN_DELAY = 2.0  # seconds that such a client waits for the response
_HOW_TO_AUTHENTICATE = "send Authorization: Bearer TOKEN with a token of control.tokens"
_STOP_TIME = 0.5  # seconds that responses in flight get when the server stops
_BACKLOG = 1024  # connections that may wait to be accepted
_ON_TCP = web.AppKey("on_tcp", bool)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class _RequestState:
    """What is known about a request while it is handled."""

    route: Route | None = None
    principal: str = ""
    began: float = field(default_factory=time.monotonic)


_STATE = web.RequestKey("state", _RequestState)


class ControlServer:
    """The control API of one daemon."""

    def __init__(self, context: ApiContext, tokens: Tokens, listeners: Listeners) -> None:
        self._context = context
        self._tokens = tokens
        self._listeners = listeners
        self._peers = Peers(context.home.database)
        self._turns = Turns()
        self._update_hosts()
        context.live.on_change(self._update_hosts)
        self._admins: frozenset[int] = frozenset()
        context.live.on_change(self._update_admins)
        self._guesses = Guesses(context.metrics.token_rejected)
        self._document: asyncio.Future[bytes] | None = None
        self._routes = [
            *schedules.ROUTES,
            *schedule_runs.ROUTES,
            *schedule_history.ROUTES,
            *runs.ROUTES,
            *workspaces.ROUTES,
            *retention.ROUTES,
            *pools.ROUTES,
            *hooks.ROUTES,
            *service.ROUTES,
        ]
        self._runners: list[web.AppRunner] = []
        self._acceptors: list[Acceptor] = []
        # one thread, since a process may have many ancestors; slow look-ups are elsewhere
        self._examiner = ThreadPoolExecutor(1, "peers")

    async def start(self) -> None:
        """Start to serve on all sockets, unless that was done before."""
        if self._runners:
            return
        self._update_admins()
        await self._serve(self._listeners.unix.listener, on_tcp=False)
        if self._listeners.tcp is not None:
            await self._serve(self._listeners.tcp, on_tcp=True)
        listen = self._context.config.control.listen
        _LOG.info("[control] Listening", socket=str(self._listeners.unix.path), listen=listen)

    def _update_hosts(self) -> None:
        config = self._context.config
        self._hosts = Hosts(config, config.control.listen or "")

    async def _serve(self, listener: socket.socket, *, on_tcp: bool) -> None:
        app = web.Application(middlewares=[self._guard])
        app[_ON_TCP] = on_tcp
        for route in self._routes:
            handler = self._handler_of(route)
            for method in ("GET", "HEAD") if route.method == "GET" else (route.method,):
                app.router.add_route(method, route.path, handler, expect_handler=expect)
        app.router.add_get("/openapi.json", self._openapi)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_STOP_TIME)
        await runner.setup()
        self._runners.append(runner)
        self._accept(runner, listener, Admission(most_connections(), self._rank_of))

    def _accept(self, runner: web.AppRunner, listener: socket.socket, admission: Admission) -> None:
        def connect(connection: socket.socket, ended: Callable[[], None], peer: Peer | None) -> Connection:
            if runner.server is None:
                raise RuntimeError("the server was shut down")
            holder = holder_of(connection, connection.getpeername()) if peer is None else Holder(peer.uid, None)
            urgent = self._rank_of(holder) is not Rank.ANYBODY
            return Connection(runner.server, _TIME_LIMITS, ended, self._turns, peer=peer, urgent=urgent)

        async def connect_later(connection: socket.socket, ended: Callable[[], None]) -> Connection:
            loop = asyncio.get_running_loop()
            return connect(connection, ended, await loop.run_in_executor(self._examiner, examine, connection))

        def serve(connection: socket.socket, ended: Callable[[], None]) -> Begin:
            peer = examine(connection, ORDINARY) if connection.family == socket.AF_UNIX else None
            if peer is not None and len(peer.lineage) >= ORDINARY:  # a thread reads what would hold up the event loop
                return partial(connect_later, connection, ended)
            return connect(connection, ended, peer)

        acceptor = Acceptor(listener, admission, serve, self._rejected)
        listener.listen(_BACKLOG)
        acceptor.start()
        self._acceptors.append(acceptor)

    def _update_admins(self) -> None:
        self._context.background.start_unattended(self._look_up_admins())

    async def _look_up_admins(self) -> None:
        self._admins = await asyncio.to_thread(admin_uids, self._context.config)

    def _rank_of(self, holder: Holder) -> Rank:
        if holder.user == 0:
            return Rank.ROOT
        if holder.address is not None:
            admins = self._context.config.access.admins
            is_admin = any(f"token:{name}" in admins for name in self._guesses.proven(holder.address))
        else:
            is_admin = holder.user == os.geteuid() or holder.user in self._admins
        return Rank.ADMIN if is_admin else Rank.ANYBODY

    def _rejected(self, holder: Holder, connections: int) -> None:
        self._context.metrics.connection_rejected("unix" if holder.address is None else "tcp")
        who = {"uid": holder.user} if holder.address is None else {"address": holder.address}
        _LOG.warning("[control] Connection rejected: too many connections", **who, connections=connections)

    async def close(self) -> None:
        """Accept no more requests; those in flight get a moment to finish."""
        self._context.closing.set()
        self._turns.close()
        for acceptor in self._acceptors:
            acceptor.close()
        self._examiner.shutdown(wait=False, cancel_futures=True)
        ends = [asyncio.create_task(runner.cleanup()) for runner in self._runners]
        if ends:
            await asyncio.wait(ends, timeout=_STOP_TIME)
        for end in ends:
            end.cancel()

    @web.middleware
    async def _guard(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn every error into a response; count and log the request."""
        state = request[_STATE] = _RequestState()
        connection = request.protocol
        await self._turns.request(urgent=isinstance(connection, Connection) and connection.urgent)
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            raise
        except ConnectionError:  # the client disconnected before it had sent the whole request
            response = refusal(400, "the request is incomplete: the client disconnected")
        except (web.RequestPayloadError, HttpProcessingError) as error:
            response = refusal(400, reason_of(error))
        except Exception as error:  # noqa: BLE001 - a bad request must not stop the daemon
            answer = answer_to(error)
            if answer is None:
                _LOG.exception("[control] Unexpected error", method=request.method, path=path_for_log(request))
                answer = refusal(500, "unexpected error; see the log")
            response = answer
        if state.route is not None:
            self._count_and_log(state, state.route, request, response.status)
        if isinstance(response, web.Response):
            return await send(request, response, self._context.unread, state.principal)
        return response

    def _handler_of(self, route: Route) -> _Handler:
        async def handle(request: web.Request) -> web.StreamResponse:
            state = request[_STATE]
            state.route = route
            if route.is_of_schedules and not self._context.config.control.schedules_api:
                return refusal(404, "the schedule routes are disabled (control.schedules_api = false)")
            state.principal = await self._principal_of(request, is_open=route.is_open)
            if self._context.health.starting and route.method != "GET":
                return refusal(503, f"the daemon is starting, and waits: {self._context.health.store}")
            refuse_encoded(request)
            identified = partial(self._is_identified, request, state.principal)
            return await route.handler(
                ApiCall(request, self._context, state.principal, route, route.read_query(request), identified)
            )

        return handle

    def _count_and_log(self, state: _RequestState, route: Route, request: web.Request, status: int) -> None:
        """Count a change of schedules, and log any request that is not a read, with its principal and its status."""
        is_done = status < web.HTTPBadRequest.status_code
        address = {"address": _address_of(request)} if request.app[_ON_TCP] else {}
        if "{token}" in route.path and status == web.HTTPNotFound.status_code:
            self._context.metrics.token_rejected("unknown_hook")
        if route.action is not None:
            self._context.metrics.schedule_change(route.action, "ok" if is_done else str(status))
        if request.method not in {"GET", "HEAD"}:
            _LOG.info(
                "[control] Request" if is_done else "[control] Refused",
                what=f"{request.method} {path_for_log(request)}",
                principal=state.principal or "unknown",
                **address,
                status=status,
                duration_ms=int((time.monotonic() - state.began) * 1000),
            )

    async def _principal_of(self, request: web.Request, *, is_open: bool) -> str:
        """Return the principal of a request, empty for an open route; raise HTTPUnauthorized or HTTPForbidden."""
        on_tcp = request.app[_ON_TCP]
        if is_cross_origin(request) or (on_tcp and not self._hosts.are_named_by(request)):
            raise web.HTTPForbidden(reason="requests from another origin or for another Host are not allowed")
        if is_open:
            return ""
        if not on_tcp:
            return await self._connected(request)
        return await self._authenticated(request)

    async def _authenticated(self, request: web.Request) -> str:
        """Return the principal of a request's token; raise HTTPUnauthorized or HTTPTooManyRequests."""
        offered, address = token_in(request), _address_of(request)
        if offered is None:
            raise web.HTTPUnauthorized(reason=_HOW_TO_AUTHENTICATE)
        name = self._tokens.name_of(offered, self._guesses.proven(address))
        if name is None:
            if not self._guesses.may_try(address):
                # connections are limited, so this limits the rate of requests; clients must not come back all at once
                await asyncio.sleep(_TOKEN_DELAY * (0.5 + random.random()))
                reason = "too many wrong tokens from this address; try again in a few seconds"
                raise web.HTTPTooManyRequests(reason=reason, headers={"Retry-After": str(_TOKEN_RETRY)})
            name = self._tokens.name_of(offered)
        if name is None:
            self._guesses.wrong(address)
            raise web.HTTPUnauthorized(reason=_HOW_TO_AUTHENTICATE)
        self._guesses.valid(address, name)
        return f"token:{name}"

    def _is_identified(self, request: web.Request, principal: str) -> bool:
        """Return whether a request's token is still that of a principal; who connected to the Unix socket remains."""
        kind, _, name = principal.partition(":")
        if kind != "token":
            return True
        offered = token_in(request)
        return offered is not None and self._tokens.name_of(offered, {name}) is not None

    async def _connected(self, request: web.Request) -> str:
        """Return the principal of who connected to the Unix socket, which is looked up once."""
        connection = request.protocol
        if not isinstance(connection, Connection) or connection.peer is None:
            raise web.HTTPForbidden(reason="it is unknown who connected")
        if connection.principal is None:
            connection.principal = await self._peers.principal_of(connection.peer)
        return connection.principal

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        await self._principal_of(request, is_open=True)
        NoQuery.model_validate(dict(request.query))
        if self._document is None:
            self._document = self._context.background.start(
                asyncio.to_thread(lambda: to_json(describe(self._routes)).encode())
            )
        return written(await asyncio.shield(self._document))


def _address_of(request: web.Request) -> str:
    """Return the address, or the IPv6 network, from which a request came over TCP."""
    return network_of(request.transport.get_extra_info("peername") if request.transport else None)
