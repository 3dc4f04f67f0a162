"""HTTP on one connection: what is no HTTP, or asks for what HTTP cannot give, is answered like every other mistake."""

import asyncio
from weakref import WeakSet

import structlog
from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError
from aiohttp.web_protocol import RequestHandler

from daemon.api.errors import answer_to, refusal

_LOG = structlog.get_logger()
_LINGERING = 2.0  # seconds in which a body that nobody wants is still read, so that the answer arrives


class Connection(RequestHandler):
    """The protocol of one connection, whose errors are bodies of JSON and lines of the log, not tracebacks."""

    def __init__(self, server: web.Server, *, idle: float, others: "WeakSet[Connection]", most: int) -> None:
        """Serve a connection, and close it when it has been idle for so many seconds, or if there are too many others.

        Bodies are taken as they come: inflating them for anybody who connects would hold up the loop.
        """
        super().__init__(
            server,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=idle,
            access_log=None,  # type: ignore[arg-type]  # None is documented
            auto_decompress=False,
            lingering_time=_LINGERING,
        )
        self._others = others
        self._most = most

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin, or turn the client away."""
        super().connection_made(transport)
        if len(self._others) >= self._most:
            _LOG.warning("[control] Too many connections; one is turned away", most=self._most)
            self.force_close()
        else:
            self._others.add(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        """End."""
        self._others.discard(self)
        super().connection_lost(exc)

    def log_exception(self, *args: object, **kwargs: object) -> None:
        """Tell what went wrong outside of any route; a request that is no proper HTTP is no error of ours."""
        error = kwargs.get("exc_info")
        if isinstance(error, (web.PayloadAccessError, web.RequestPayloadError, HttpProcessingError)):
            _LOG.info("[control] Malformed request", reason=str(error) or type(error).__name__)
        else:
            super().log_exception(*args, **kwargs)

    def handle_error(
        self,
        request: web.BaseRequest,
        status: int = 500,
        exc: BaseException | None = None,
        message: str | None = None,
    ) -> web.StreamResponse:
        """Return the answer to a request that could not be understood, and close the connection."""
        if request.writer.output_size > 0:
            raise ConnectionError("an answer was begun already")
        reason = (message or str(exc) or "no HTTP/1.1").strip().partition("\n")[0].rstrip(":")
        if status == web.HTTPInternalServerError.status_code:
            _LOG.error("[control] Unexpected error", method=request.method, path=request.path, exc_info=exc)
            reason = "unexpected error; the log tells more"
        else:
            _LOG.info("[control] Malformed request", status=status, reason=reason)
        answer = refusal(status, reason)
        answer.force_close()
        return answer

    async def finish_response(
        self, request: web.BaseRequest, resp: web.StreamResponse, start_time: float | None
    ) -> tuple[web.StreamResponse, bool]:
        """Send an answer; one that the HTTP library made up itself gets the shape of ours."""
        if isinstance(resp, web.HTTPException):
            resp = answer_to(resp) or resp
        return await super().finish_response(request, resp, start_time)
