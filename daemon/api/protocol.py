"""HTTP on one connection: what is no HTTP, or asks for what HTTP cannot give, is answered like every other mistake."""

import asyncio

import structlog
from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from daemon.api.errors import answer_to, refusal

_LOG = structlog.get_logger()


class Connection(RequestHandler):
    """The protocol of one connection, whose errors are bodies of JSON and lines of the log, not tracebacks."""

    def __init__(self, server: web.Server, *, idle: float) -> None:
        """Serve a connection, and close it when it has been idle for so many seconds."""
        super().__init__(server, loop=asyncio.get_running_loop(), keepalive_timeout=idle, access_log=None)  # type: ignore[arg-type]  # None is documented

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
