"""Sends answers piece by piece, and bounds the bytes and the time that answers wait for their clients."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import structlog
from aiohttp import web

_LOG = structlog.get_logger()
_SMALL = 16 * 1024  # bytes of an answer that fits into the socket
_PIECE = 80 * 1024  # bytes; aiohttp waits for the client only after more than 64 KiB
_RUNS = "runs"  # the account of all agents
_WHOLE = 60.0  # seconds for a whole answer
_MOST = 16 * 1024 * 1024  # bytes of all answers that wait for their clients


@dataclass(eq=False)
class _Waiting:
    account: str
    size: int
    transport: asyncio.Transport


class UnreadAnswers:
    """The answers that wait for their clients; beyond a limit, whoever has the most bytes of them loses the oldest.

    The answers to all agents count together, since an agent of many runs would be as many principals.
    """

    def __init__(self, most: int = _MOST) -> None:
        self._most = most
        self._waiting: dict[_Waiting, None] = {}  # oldest first
        self._size = 0

    @contextmanager
    def waiting(self, principal: str, size: int, transport: asyncio.Transport) -> Iterator[None]:
        """Count some bytes while they wait for a client; close connections of others if they are too many."""
        one = _Waiting(_RUNS if principal.startswith("run:") else principal, size, transport)
        while self._waiting and self._size + size > self._most:
            self._give_up()
        self._waiting[one] = None
        self._size += size
        try:
            yield
        finally:
            self._forget(one)

    def _give_up(self) -> None:
        """Close the connection with the oldest answer to whoever has the most bytes waiting."""
        sizes: dict[str, int] = {}
        for one in self._waiting:
            sizes[one.account] = sizes.get(one.account, 0) + one.size
        greediest = max(sizes, key=sizes.__getitem__)
        oldest = next(one for one in self._waiting if one.account == greediest)
        _LOG.warning(
            "[control] Connection closed: too many answers wait for clients that do not take them",
            principal=greediest or "unknown",
            waiting_bytes=self._size,
        )
        oldest.transport.abort()
        self._forget(oldest)

    def _forget(self, one: _Waiting) -> None:
        if one in self._waiting:
            del self._waiting[one]
            self._size -= one.size


async def send(request: web.Request, answer: web.Response, unread: UnreadAnswers, principal: str) -> web.StreamResponse:
    """Send an answer if it is large, and return what was sent; return a small one, which aiohttp sends.

    A client that is gone, or does not take the answer in time, loses the connection.
    """
    body, transport = answer.body, request.transport
    if not isinstance(body, bytes) or len(body) <= _SMALL or request.method == "HEAD" or transport is None:
        return answer
    sent = web.StreamResponse(status=answer.status, reason=answer.reason, headers=answer.headers)
    sent.content_length = len(body)
    if answer.keep_alive is False:
        sent.force_close()
    try:
        with unread.waiting(principal, len(body), transport):
            async with asyncio.timeout(_WHOLE):
                await sent.prepare(request)
                for start in range(0, len(body), _PIECE):
                    await sent.write(memoryview(body)[start : start + _PIECE])
                await sent.write_eof()
    except TimeoutError:
        _LOG.info("[control] Connection closed: the client did not take its answer", seconds=_WHOLE)
        transport.abort()
    except ConnectionError:  # raised further, it would keep the answer in its traceback until a garbage collection
        transport.abort()
    return sent
