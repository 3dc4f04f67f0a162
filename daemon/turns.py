"""The share of each turn of the event loop that connections get, however many of them have something to do."""

import asyncio
import time
from collections import deque
from collections.abc import Callable

_SHARE = 0.005  # seconds of one turn
_REQUEST = 0.0005  # seconds that a request takes until it waits for something, at least


class Turns:
    """Does work of connections at once while the turn has time for it, else in one of the next turns, in order.

    Without this, one turn would serve every connection that has sent something, and due times would wait for its end:
    a client chooses how much the parser has to do for a byte, and how many requests arrive together.
    """

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """Start without any work; call this in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._clock = clock
        self._urgent: deque[Callable[[], None]] = deque()
        self._others: deque[Callable[[], None]] = deque()
        self._requests: set[asyncio.Future[None]] = set()
        self._used = 0.0
        self._is_awake = False

    def do(self, work: Callable[[], None], *, urgent: bool) -> None:
        """Do work, now or later; that of administrators is `urgent` and comes before that of others."""
        line = self._urgent if urgent else self._others
        if self._used < _SHARE and not line:
            self._do(work)
        else:
            line.append(work)
        self._wake()

    async def request(self, *, urgent: bool) -> None:
        """Wait until there is time for a request; raise CancelledError when the daemon stops."""
        if self._used < _SHARE and not (self._urgent if urgent else self._others):
            self._used += _REQUEST
            self._wake()
            return
        begun: asyncio.Future[None] = self._loop.create_future()

        def begin() -> None:
            if not begun.done():  # the client has disconnected
                self._used += _REQUEST
                begun.set_result(None)

        self._requests.add(begun)
        begun.add_done_callback(self._requests.discard)
        self.do(begin, urgent=urgent)
        await begun

    def close(self) -> None:
        """End the requests that wait."""
        for request in list(self._requests):
            request.cancel()

    def _wake(self) -> None:
        """Have the next turn begun."""
        if not self._is_awake:
            self._is_awake = True
            self._loop.call_soon(self._begin)

    def _begin(self) -> None:
        """Begin a turn: do what waits."""
        self._used = 0.0
        self._is_awake = bool(self._urgent or self._others)
        if self._is_awake:  # before the work, an error of which must not end the turns of all
            self._loop.call_soon(self._begin)
        while self._used < _SHARE and (line := self._urgent or self._others):
            self._do(line.popleft())

    def _do(self, work: Callable[[], None]) -> None:
        began = self._clock()
        try:
            work()
        finally:
            self._used += self._clock() - began
