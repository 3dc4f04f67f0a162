"""A connection that holds little in either direction, and whose client must take what is sent to it, or loses it."""

import asyncio
import socket
from typing import Protocol, cast

import structlog
from aiohttp.web_protocol import RequestHandler

_LOG = structlog.get_logger()
_PATIENCE = 30.0  # seconds for what was written at once
_SENT = 64 * 1024  # bytes that the kernel may hold for a client, and as many for its own use; it would take megabytes
_RECEIVED = 16 * 1024  # bytes that are read at once; asyncio would read 256 KiB, wanted or not


class _SocketTransport(Protocol):
    max_size: int

    def set_write_buffer_limits(self, high: int) -> None: ...


class FlowControl(RequestHandler):
    """Closes a connection whose client does not take what was written, also while the connection is being closed."""

    _patience = _PATIENCE
    _deadline: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Accept the connection, and ask to be told whenever anything waits to be taken."""
        super().connection_made(transport)
        flow = cast("_SocketTransport", transport)
        flow.max_size = _RECEIVED
        flow.set_write_buffer_limits(high=0)
        self._hold(_SENT)

    def begin_stream(self, piece: int, patience: float) -> None:
        """Prepare for an answer in pieces of some bytes, each of which the client has `patience` seconds to take."""
        self._patience = patience
        self._hold(piece)

    def _hold(self, size: int) -> None:
        """Let the kernel hold so many bytes for the client."""
        if self.transport is not None:
            self.transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, size)

    def pause_writing(self) -> None:
        """Start the client's time: it has not taken all that was written."""
        super().pause_writing()
        self._deadline = asyncio.get_running_loop().call_later(self._patience, self._give_up)

    def resume_writing(self) -> None:
        """End the client's time: it has taken all."""
        self._end_time()
        super().resume_writing()

    def connection_lost(self, exc: BaseException | None) -> None:
        """End the client's time with its connection."""
        self._end_time()
        super().connection_lost(exc)

    def _end_time(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        if self.transport is not None:
            _LOG.info("[control] Connection closed: the client did not take its answer", seconds=self._patience)
            self.transport.abort()
