"""The server behind both sockets: it finds out who asks, checks the shape, has the route answer, and minds the time."""

import asyncio
import socket
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from weakref import WeakSet

import structlog
from aiohttp import web

from daemon.api.connection import Connection
from daemon.api.context import ApiContext
from daemon.api.errors import answer_to, refusal
from daemon.api.identity import Hosts, Peers, Tokens, is_cross_origin
from daemon.api.openapi import describe
from daemon.api.requests import NoQuery
from daemon.api.routes import hooks, retention, runs, schedules, service, workspaces
from daemon.api.routing import ApiCall, Route, reply
from daemon.api.sockets import Listeners, most_connections

_LOG = structlog.get_logger()
_LARGEST_BODY = 1024 * 1024
_FIRST_REQUEST = 15.0  # seconds that a new connection has for the headers of its first request
_IDLE = 60.0  # seconds until the headers of the next one
_BODY = 30.0  # seconds for a body
_SLOW_STOP = 0.5  # seconds that answers in flight get at the end
_BACKLOG = 1024  # connections that may wait to be taken
_LONGEST_PATH = 300  # characters of it in the log
_ON_TCP = web.AppKey("on_tcp", bool)
_Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class _Asked:
    """What is known of a request while it is answered."""

    route: Route | None = None
    principal: str = ""
    began: float = field(default_factory=time.monotonic)


_ASKED = web.RequestKey("asked", _Asked)


class ControlServer:
    """The control API of one daemon."""

    def __init__(self, context: ApiContext, tokens: Tokens, listeners: Listeners) -> None:
        self._context = context
        self._tokens = tokens
        self._listeners = listeners
        self._peers = Peers(context.home.database)
        self._renew_hosts()
        context.live.on_change(self._renew_hosts)
        self._most = most_connections()
        self._heard: WeakSet[asyncio.BaseTransport] = WeakSet()
        self._document: dict[str, object] = {}
        self._routes = [
            *schedules.ROUTES,
            *runs.ROUTES,
            *workspaces.ROUTES,
            *retention.ROUTES,
            *hooks.ROUTES,
            *service.ROUTES,
        ]
        self._runners: list[web.AppRunner] = []
        self._servers: list[asyncio.Server] = []

    async def start(self) -> None:
        """Serve on all sockets."""
        await self._serve(self._listeners.unix.listener, on_tcp=False)
        if self._listeners.tcp is not None:
            await self._serve(self._listeners.tcp, on_tcp=True)
        listen = self._context.config.control.listen
        _LOG.info("[control] Listening", socket=str(self._listeners.unix.path), listen=listen)

    def _renew_hosts(self) -> None:
        config = self._context.config
        self._hosts = Hosts(config, config.control.listen or "")

    async def _serve(self, listener: socket.socket, *, on_tcp: bool) -> None:
        app = web.Application(client_max_size=_LARGEST_BODY, middlewares=[self._mind])
        app[_ON_TCP] = on_tcp
        for route in self._routes:
            app.router.add_route(route.method, route.path, self._answering(route))
        app.router.add_get("/openapi.json", self._openapi)
        runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=_SLOW_STOP)
        await runner.setup()
        self._runners.append(runner)
        loop, others = asyncio.get_running_loop(), WeakSet[Connection]()
        backlog = min(_BACKLOG, self._most // 4)  # the loop takes so many at once, before one can be turned away
        # create_unix_server() of Python 3.13 minds the path of the socket, which is ours to mind
        serving = loop.create_server(lambda: self._watched(runner, others), sock=listener, backlog=backlog)
        self._servers.append(await serving)

    def _watched(self, runner: web.AppRunner, others: "WeakSet[Connection]") -> Connection:
        """Make the protocol of one connection, and close it if no request comes in time."""
        if runner.server is None:
            raise RuntimeError("the server was shut down")
        protocol = Connection(runner.server, idle=_IDLE, others=others, most=self._most)
        asyncio.get_running_loop().call_later(_FIRST_REQUEST, self._close_if_silent, protocol)
        return protocol

    def _close_if_silent(self, protocol: Connection) -> None:
        if protocol.transport is not None and protocol.transport not in self._heard:
            protocol.force_close()

    async def close(self) -> None:
        """Answer nothing more; what is being answered gets a moment."""
        self._context.closing.set()
        for server in self._servers:
            server.close()
        ends = [asyncio.create_task(runner.cleanup()) for runner in self._runners]
        if ends:
            await asyncio.wait(ends, timeout=_SLOW_STOP)
        for end in ends:
            end.cancel()

    @web.middleware
    async def _mind(self, request: web.Request, handler: _Handler) -> web.StreamResponse:
        """Turn what goes wrong into an answer, whatever it was; count and log what was asked for."""
        if request.transport is not None:
            self._heard.add(request.transport)
        asked = request[_ASKED] = _Asked()
        try:
            response = await handler(request)
        except asyncio.CancelledError:
            raise
        except ConnectionError:  # the client went away before it had said all
            response = refusal(400, "the request was broken off")
        except Exception as error:  # noqa: BLE001 - a bad request must not stop the daemon
            answer = answer_to(error)
            if answer is None:
                path = _shown(request, asked.route)
                _LOG.exception("[control] Unexpected error", method=request.method, path=path)
                answer = refusal(500, "unexpected error; see the log")
            response = answer
        if asked.route is not None:
            self._tell(asked, asked.route, request, response.status)
        return response

    def _answering(self, route: Route) -> _Handler:
        async def answer(request: web.Request) -> web.StreamResponse:
            asked = request[_ASKED]
            asked.route = route
            if route.is_of_schedules and not self._context.config.control.schedules_api:
                return refusal(404, "the schedule routes are switched off (control.schedules_api = false)")
            asked.principal = await self._principal_of(request, is_open=route.is_open)
            return await self._call(route, request, asked.principal)

        return answer

    def _tell(self, asked: "_Asked", route: Route, request: web.Request, status: int) -> None:
        """Count a change that was asked for, and have the log say who asked and what came of it."""
        is_done = status < web.HTTPBadRequest.status_code
        if route.action is not None:
            self._context.metrics.schedule_change(route.action, "ok" if is_done else str(status))
        if request.method not in {"GET", "HEAD"}:
            _LOG.info(
                "[control] Request" if is_done else "[control] Refused",
                what=f"{request.method} {_shown(request, route)}",
                principal=asked.principal or "unknown",
                status=status,
                duration_ms=int((time.monotonic() - asked.began) * 1000),
            )

    async def _call(self, route: Route, request: web.Request, principal: str) -> web.StreamResponse:
        query = route.read_query(request)
        try:
            async with asyncio.timeout(_BODY):
                body = await route.read_body(request)
        except TimeoutError:
            raise web.HTTPRequestTimeout(reason=f"the body did not come within {_BODY:.0f} s") from None
        return await route.handler(ApiCall(request, self._context, principal, body, query))

    async def _principal_of(self, request: web.Request, *, is_open: bool) -> str:
        """Return who asks; raise HTTPUnauthorized or HTTPForbidden where nobody may."""
        on_tcp = request.app[_ON_TCP]
        if is_cross_origin(request) or (on_tcp and not self._hosts.are_named_by(request)):
            raise web.HTTPForbidden(reason="no calls from other origins, nor under a foreign Host")
        if is_open:
            return ""
        if not on_tcp:
            if request.transport is None:
                raise web.HTTPForbidden(reason="the connection is gone")
            return await self._peers.principal_of(request.transport)
        principal = self._tokens.principal_of(request)
        if principal is None:
            raise web.HTTPUnauthorized(reason="send Authorization: Bearer TOKEN with a token of control.tokens")
        return principal

    async def _openapi(self, request: web.Request) -> web.StreamResponse:
        await self._principal_of(request, is_open=True)
        NoQuery.model_validate(dict(request.query))
        if not self._document:
            self._document = describe(self._routes)
        return reply(self._document)


def _shown(request: web.Request, route: Route | None) -> str:
    """Return the path of a request as the log may show it: a token in it is a secret."""
    return route.path if route is not None and "{token}" in route.path else request.path[:_LONGEST_PATH]
