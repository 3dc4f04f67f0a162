"""The HTTP protocol of one connection, which reports malformed requests in the same form as all other errors."""

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

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
from aiohttp.streams import EMPTY_PAYLOAD, StreamReader

from daemon.api.admission import raw_refusal
from daemon.api.errors import answer_to, refusal
from daemon.api.flow import FlowControl
from daemon.api.identity import Peer
from daemon.turns import Turns

_LOG = structlog.get_logger()
_LINGERING = 2.0  # seconds in which an unused body is still read, so that the response arrives
_LONGEST_HEADERS = 32 * 1024  # bytes of the headers of one request
_LONGEST_PATH = 300  # characters of a path in the log
_MOST_FRAMING = 64 * 1024  # bytes around the chunks of one body; to parse a chunk costs as much as to read kilobytes
_MOST_DROPPED = 1024 * 1024  # bytes of an unwanted body that are received, so that the response arrives
_READ_AHEAD = 16 * 1024  # bytes of a body that are held, twice at most, before anybody wants it


class TooManyChunksError(web.RequestPayloadError):
    """A body consists of so many small chunks that parsing them would hold up the event loop."""


_MALFORMED: dict[type[Exception], str] = {
    TooManyChunksError: "the body comes in too many small chunks; send larger ones, or a Content-Length",
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


@dataclass(frozen=True)
class TimeLimits:
    """How long a connection may wait for a request, in seconds."""

    first_request: float
    """Until the headers of the first one."""
    idle: float
    """Until the headers of the next one."""


class Connection(FlowControl):
    """The protocol of one connection; errors become JSON responses and log lines instead of tracebacks."""

    def __init__(
        self,
        server: web.Server,
        limits: TimeLimits,
        ended: Callable[[], None],
        turns: Turns,
        *,
        peer: Peer | None = None,
        urgent: bool = False,
    ) -> None:
        """Serve the connection of a peer in its turns, before others if it is urgent; call `ended` when it has ended.

        Compressed bodies are not decompressed, since any client could block the event loop with them.
        """
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.idle,
            access_log=None,  # type: ignore[arg-type]  # None is documented
            auto_decompress=False,
            lingering_time=_LINGERING,
            read_bufsize=_READ_AHEAD,
        )
        self.peer = peer
        """Who connected to the Unix socket; None on TCP."""
        self.principal: str | None = None
        """The principal of who connected, once a request needed it."""
        self.urgent = urgent
        """Whether it is served before others."""
        self._turns = turns
        self._limits = limits
        self._ended = ended
        self._first: asyncio.TimerHandle | None = None
        self._body: StreamReader = EMPTY_PAYLOAD
        self._headers = 0
        self._received = 0  # bytes of the request that is being received
        self._waiting: bytearray | None = None  # what has arrived while the connection waits for its turn
        self._is_unwanted = False
        self._dropped = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection; close it if no request arrives in time."""
        super().connection_made(transport)
        self._first = asyncio.get_running_loop().call_later(self._limits.first_request, self.force_close)

    def data_received(self, data: bytes) -> None:
        """Parse what arrives when it is the connection's turn; nothing is received until then."""
        if self._is_unwanted:
            self._dropped += len(data)
            if self._dropped > _MOST_DROPPED:
                self._pause_transport_reading()
            return
        if self._waiting is not None:
            self._waiting += data
            self._pause_transport_reading()
            return
        self._waiting = bytearray(data)
        self._turns.do(self._take_turn, urgent=self.urgent)
        if self._waiting is not None:
            self._pause_transport_reading()

    def _take_turn(self) -> None:
        data, self._waiting = bytes(self._waiting or b""), None
        if self.transport is None or self._is_unwanted:
            return
        self._parse(data)
        if not self._reading_paused and not self._buffer_paused and self._waiting is None:
            self._resume_transport_reading()

    def _parse(self, data: bytes) -> None:
        """Parse what has arrived; end the request if its headers are too long in total, or its chunks too many."""
        received = self._request_count
        super().data_received(data)
        self._received += len(data)
        if self._request_count > received:
            self._received = len(data)
            if self._first is not None:
                self._first.cancel()
                self._first = None
            if self._messages:
                self._body = self._messages[-1][1]
            left = len(data) - self._body.total_bytes  # less than nothing if the request had waited in the parser
            self._headers = max(0, left)  # of what has arrived of the next request
        elif self._body.is_eof():
            self._headers += len(data)
        if self._headers > _LONGEST_HEADERS:
            self._reject_headers()
        if not self._body.is_eof() and self._received - self._body.total_bytes > _MOST_FRAMING:
            self._is_unwanted = True
            self._body.set_exception(TooManyChunksError())

    def _reject_headers(self) -> None:
        """Refuse a request whose headers take too much memory, with a response unless one is under way."""
        reason = f"the headers are too long (more than {_LONGEST_HEADERS} bytes)"
        _LOG.info("[control] Malformed request", status=431, reason=reason)
        if self.transport is not None and self._waiter is not None:
            self.transport.write(raw_refusal(431, "Request Header Fields Too Large", reason, "too_large"))
        self.force_close()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Release the connection's place."""
        if self._first is not None:
            self._first.cancel()
        self._ended()
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
        is_unread = "Transfer-Encoding" in request.headers and not request.content.is_eof()
        if is_unread:
            resp.force_close()
        sent = await super().finish_response(request, resp, start_time)
        if is_unread:  # the rest is received for a moment, so that the response arrives, but not parsed
            self._is_unwanted = True
            request.content.set_exception(None)  # type: ignore[arg-type]  # aiohttp would close at once
        return sent
