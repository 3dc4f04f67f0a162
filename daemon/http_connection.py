"""The client's side of an HTTP connection: what a peer sends is parsed in turns, and must be mostly content."""

import asyncio
from collections import deque
from collections.abc import Callable

import aiohttp
from aiohttp.client_proto import ResponseHandler

_PIECE = 16 * 1024  # bytes that are parsed at once
_MOST_FRAMING = 64 * 1024  # bytes around the content of an answer: its head, and what surrounds its chunks
_CONTENT_PER_FRAMING = 4  # bytes of content for each further one; a word that is streamed takes 100 and more


class TooMuchFramingError(aiohttp.ClientPayloadError):
    """An answer has so long a head, or so small chunks, that to parse it would hold up the event loop."""


class PeerConnection(ResponseHandler):
    """A connection to a peer that may send anything.

    To parse a chunk costs as much as to read kilobytes, so a peer could occupy the event loop with an answer that is
    not large. aiohttp parses all that arrives at once; here each piece waits for its turn, and while the reader of the
    answer has enough to read, and no more is received until then.
    """

    def __init__(self, do: Callable[[Callable[[], None]], None]) -> None:
        """Parse with `do`, which calls what it is given, now or later, in order; call this in the event loop."""
        super().__init__(asyncio.get_running_loop())
        self._do = do
        self._pieces: deque[bytes] = deque()
        self._turns = 0  # that were asked for and have not come
        self._is_lost = False
        self._received = 0

    def data_received(self, data: bytes) -> None:
        """Parse what arrives when it is the connection's turn; without data, go on with what the parser has."""
        if not data:
            super().data_received(data)
            return
        self._pieces.extend(data[start : start + _PIECE] for start in range(0, len(data), _PIECE))
        self._ask_for_turns()
        if self._pieces:
            self._pause_transport_reading()

    def pause_reading(self) -> None:
        """Parse and receive no more until the reader has read; what came before the end is parsed nevertheless."""
        if not self._is_lost:
            super().pause_reading()

    def resume_reading(self, resume_parser: bool = True) -> None:  # noqa: FBT001, FBT002 - aiohttp's signature
        """Go on with what the parser has, then with the pieces; the parser itself calls this without `resume_parser`.

        It must not be called again before it returns, so the pieces wait in that case.
        """
        super().resume_reading(resume_parser)
        if resume_parser:
            self._ask_for_turns()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Parse what has arrived before the end."""
        self._is_lost = True
        while self._pieces:
            self._parse(self._pieces.popleft())
        if self._reading_paused and self.exception() is None:
            super().data_received(b"")  # what the parser kept because the reader is slow
        super().connection_lost(exc)

    def _ask_for_turns(self) -> None:
        """Ask for a turn for each piece that has none, unless the reader has enough to read."""
        while self._turns < len(self._pieces) and not self._reading_paused:
            self._turns += 1
            self._do(self._take_turn)

    def _take_turn(self) -> None:
        self._turns -= 1
        if not self._pieces or self._reading_paused:  # the connection has ended meanwhile, or the reader is slow
            return
        self._parse(self._pieces.popleft())
        if not self._reading_paused and not self._buffer_paused:
            self._resume_transport_reading()

    def _resume_transport_reading(self) -> None:
        if not self._pieces:
            super()._resume_transport_reading()

    def _parse(self, data: bytes) -> None:
        """Parse a piece, unless nobody wants it any more; end the connection if the answer is mostly framing."""
        if self.transport is None or self.exception() is not None:
            return
        super().data_received(data)
        self._received += len(data)
        content = self._payload.total_bytes if self._payload is not None else 0
        if self._received - content > _MOST_FRAMING + content // _CONTENT_PER_FRAMING:
            self._refuse()

    def _refuse(self) -> None:
        error = TooMuchFramingError("the answer has too long a head, or comes in too many small chunks")
        if self._payload is not None and not self._payload.is_eof():
            self._payload.set_exception(error)
        self.set_exception(error)
        if self.transport is not None:
            self.transport.abort()
