"""The HTTP protocol of one connection, which reports malformed requests in the same form as all other errors."""

import asyncio
import socket
from weakref import WeakSet

import structlog
from aiohttp import web
from aiohttp.http_exceptions import (
    BadHttpMessage,
    BadHttpMethod,
    BadStatusLine,
    HttpProcessingError,
    InvalidHeader,
    InvalidURLError,
    LineTooLong,
    PayloadEncodingError,
)

from daemon.api.errors import answer_to, refusal
from daemon.api.write_deadline import WriteDeadline
from daemon.api.identity import Peer, examine

_LOG = structlog.get_logger()
_LINGERING = 2.0  # seconds in which an unused body is still read, so that the response arrives
_LONGEST_PATH = 300  # characters of a path in the log
_READ_AHEAD = 16 * 1024  # bytes of a body that are held, twice at most, before anybody wants it
_MALFORMED: dict[type[Exception], str] = {
    LineTooLong: "the request line or a header is too long (more than 8190 bytes)",
    InvalidHeader: "a header is malformed",
    InvalidURLError: "the address in the request line is malformed",
    BadHttpMethod: "the request line has no HTTP method; is it HTTPS?",
    BadStatusLine: "the request line is malformed",
    PayloadEncodingError: "the body is malformed or incomplete",
    web.RequestPayloadError: "the body is malformed or incomplete",
    web.PayloadAccessError: "the body arrived after the response",
}


def reason_of(error: BaseException | None) -> str:
    """Return what is wrong with a request, without a word of the request: it may contain a token.

    Messages of the HTTP library quote the request, except those of BadHttpMessage itself, whose first line is constant.
    """
    for kind, words in _MALFORMED.items():
        if isinstance(error, kind):
            return words
    if type(error) is BadHttpMessage:
        return error.message.strip().partition("\n")[0].rstrip(":.")
    return "the request is not proper HTTP/1.1"


def path_for_log(request: web.BaseRequest) -> str:
    """Return the path of a request for the log, without what follows `/hooks/`: a token, which is a secret."""
    path = request.path[:_LONGEST_PATH]
    before, hooks, _ = path.partition("/hooks/")
    return f"{before}{hooks}{{token}}" if hooks else path


class Connection(WriteDeadline):
    """The protocol of one connection; errors become JSON responses and log lines instead of tracebacks."""

    def __init__(self, server: web.Server, *, idle: float, others: "WeakSet[Connection]", most: int) -> None:
        """Serve a connection; close it when it has been idle for `idle` seconds, or if there are already `most` others.

        Compressed bodies are not decompressed, since any client could block the event loop with them.
        """
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle,
            access_log=None,  # type: ignore[arg-type]  # None is documented
            auto_decompress=False,
            lingering_time=_LINGERING,
            read_bufsize=_READ_AHEAD,
        )
        self.peer: Peer | None = None
        """Who connected to the Unix socket; None on TCP."""
        self.principal: str | None = None
        """The principal of who connected, once a request needed it."""
        self._others = others
        self._most = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection and examine who connected, or reject it if there are too many."""
        connection = transport.get_extra_info("socket")
        if connection.family == socket.AF_UNIX:
            self.peer = examine(connection)
        super().connection_made(transport)
        if len(self._others) >= self._most:
            _LOG.warning("[control] Connection rejected: too many connections", most=self._most)
            self.force_close()
        else:
            self._others.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release the connection's place."""
        self._others.discard(self)
        super().connection_lost(exc)

    def log_exception(self, *args: object, **kwargs: object) -> None:
        """Log an error outside of routes; a malformed request is the client's error, and not logged as one."""
        error = kwargs.get("exc_info")
        if isinstance(error, (web.PayloadAccessError, web.RequestPayloadError, HttpProcessingError)):
            _LOG.info("[control] Malformed request", reason=reason_of(error))
        else:
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,  # noqa: ARG002 - the library's; it quotes the request
    ) -> web.StreamResponse:
        """Return the response to a malformed request or an unexpected error, and close the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("the response has already begun")
        if status == web.HTTPInternalServerError.status_code:
            _LOG.error("[control] Unexpected error", method=request.method, path=path_for_log(request), exc_info=exc)
            reason = "unexpected error; see the log"
        else:
            reason = reason_of(exc)
            _LOG.info("[control] Malformed request", status=status, reason=reason)
        answer = refusal(status, reason)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send a response; an error response of the HTTP library is converted to the API's form."""
        if isinstance(resp, web.HTTPException):
            resp = answer_to(resp) or resp
        return await super().finish_response(request, resp, start_time)
