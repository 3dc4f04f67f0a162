"""Accepts connections: rejects those beyond a limit at once, and serves the others a few at a time."""

import asyncio
import contextlib
import errno
import select
import socket
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from functools import partial

import structlog

from daemon.api.admission import Admission, Holder, Place, Rank, holder_of, raw_refusal
from daemon.api.untaken import Untaken

_LOG = structlog.get_logger()
_ACCEPTED_AT_ONCE = 64  # before the event loop does other work; rejecting one takes about 30 us
_BEGUN_AT_ONCE = 16  # the protocol of one takes about 0.3 ms
_LINGERING = 1.0  # seconds that a rejected client has to read the response
_MOST_LINGERING = 64  # rejected clients that get one
_DROPPED_AT_ONCE = 256  # connections that their clients have closed; to drop one takes a few microseconds
_PEEKED = 32 * 1024  # bytes; the headers of a request are at most that
_CLOSED = select.POLLRDHUP | select.POLLHUP | select.POLLERR
_RETRY_AFTER = 5  # seconds
_SCARCE = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WAIT_IF_SCARCE = 1.0  # seconds
_REJECTION = raw_refusal(
    503,
    "Service Unavailable",
    "too many connections of this user or address, or of all; close some, or try again in a moment",
    "unavailable",
    _RETRY_AFTER,
)

Begin = asyncio.Protocol | Callable[[], Awaitable[asyncio.Protocol]]
"""The protocol of a connection, or what returns it after a while, during which other connections begin."""


class Acceptor:
    """Accepts the connections of one listening socket.

    asyncio's own servers make the transport of a connection before anybody can reject it, and serve connections in the
    order of their arrival, so that a flood of them delays everything else.
    """

    def __init__(
        self,
        listener: socket.socket,
        admission: Admission,
        serve: Callable[[socket.socket, Callable[[], None]], Begin],
        rejected: Callable[[Holder, int], None],
    ) -> None:
        """Prepare; `serve` returns how a connection begins and gets what to call when it ends.

        `rejected` gets who has how many connections.
        """
        self._listener = listener
        self._admission = admission
        self._serve = serve
        self._rejected = rejected
        self._urgent: deque[tuple[socket.socket, Place]] = deque()
        self._others: deque[tuple[socket.socket, Place]] = deque()
        self._waiting = asyncio.Event()
        self._lingering: dict[socket.socket, asyncio.TimerHandle] = {}  # the oldest first
        self._loop = asyncio.get_running_loop()
        self._retry: asyncio.TimerHandle | None = None
        self._beginning: asyncio.Task[None] | None = None
        self._later: set[asyncio.Task[None]] = set()
        self._untaken = Untaken()

    def start(self) -> None:
        """Begin to accept."""
        self._beginning = asyncio.create_task(self._begin())
        self._resume()

    def close(self) -> None:
        """Accept no more, and close what is not yet served."""
        self._loop.remove_reader(self._listener)
        if self._retry is not None:
            self._retry.cancel()
        if self._beginning is not None:
            self._beginning.cancel()
        for task in self._later:
            task.cancel()
        for connection, place in (*self._urgent, *self._others):
            connection.close()
            place.release()
        for connection in list(self._lingering):
            self._end_lingering(connection)
        self._untaken.close()

    def _resume(self) -> None:
        self._retry = None
        self._loop.add_reader(self._listener, self._accept)

    def _accept(self) -> None:
        for _ in range(_ACCEPTED_AT_ONCE):
            try:
                connection, address = self._listener.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                if error.errno not in _SCARCE:  # an error of the connection, which Linux reports here (accept(2))
                    continue
                _LOG.error("[control] Cannot accept connections; retrying", reason=error.strerror)
                self._loop.remove_reader(self._listener)
                self._retry = self._loop.call_later(_WAIT_IF_SCARCE, self._resume)
                return
            self._admit(connection, holder_of(connection, address))

    def _admit(self, connection: socket.socket, holder: Holder) -> None:
        place = self._admission.admit(holder)
        if place is None:
            self._rejected(holder, self._admission.held(holder))
            self._reject(connection)
            return
        (self._others if place.rank is Rank.ANYBODY else self._urgent).append((connection, place))
        self._waiting.set()

    def _reject(self, connection: socket.socket) -> None:
        """Answer, and leave the client a moment to send its request and read: a closed connection is an error to it."""
        if len(self._lingering) >= min(_MOST_LINGERING, self._admission.most // 4):
            self._make_room_for_lingering()
        connection.settimeout(0)
        with contextlib.suppress(OSError):  # it has disconnected
            connection.send(_REJECTION)
            connection.shutdown(socket.SHUT_WR)
        self._lingering[connection] = self._loop.call_later(_LINGERING, self._end_lingering, connection)

    def _make_room_for_lingering(self) -> None:
        """Close the connections whose clients wait for nothing any more, or else the one that had most time to read."""
        closed = _closed_by_client(list(self._lingering))
        for connection in closed or list(self._lingering)[:1]:
            self._end_lingering(connection)

    def _end_lingering(self, connection: socket.socket) -> None:
        self._lingering.pop(connection).cancel()
        connection.close()

    async def _begin(self) -> None:
        """Begin to serve the connections that were admitted, a few at a time, administrators first."""
        while True:
            await self._waiting.wait()
            some = self._next_to_begin()
            if not self._urgent and not self._others:
                self._waiting.clear()
            await asyncio.gather(asyncio.sleep(0), *(self._ending_with(self._begin_one(*one), *one) for one in some))

    def _next_to_begin(self) -> list[tuple[socket.socket, Place]]:
        """Return some of the connections that wait, and drop those that nobody waits for.

        Clients that connect and close could otherwise be admitted faster than served, and take the places of others.
        """
        some: list[tuple[socket.socket, Place]] = []
        for _ in range(_DROPPED_AT_ONCE):
            line = self._urgent or self._others
            if not line or len(some) == _BEGUN_AT_ONCE:
                break
            connection, place = line.popleft()
            if _is_abandoned(connection):
                connection.close()
                place.release()
            else:
                some.append((connection, place))
        return some

    async def _begin_one(self, connection: socket.socket, place: Place) -> None:
        with self._only_one(connection, place):
            found = self._serve(connection, partial(self._untaken.hold, connection, place.release))
            if isinstance(found, asyncio.Protocol):
                await self._loop.connect_accepted_socket(lambda: found, connection)
                return
            task = self._ending_with(self._begin_later(found, connection, place), connection, place)
            self._later.add(task)
            task.add_done_callback(self._later.discard)

    @staticmethod
    def _ending_with(
        beginning: Coroutine[None, None, None], connection: socket.socket, place: Place
    ) -> asyncio.Task[None]:
        """Return the task that begins a connection; a task that is cancelled before its first step ends it, too."""

        def end(task: asyncio.Task[None]) -> None:
            if task.cancelled():
                connection.close()
                place.release()

        task = asyncio.create_task(beginning)
        task.add_done_callback(end)
        return task

    async def _begin_later(
        self, find: Callable[[], Awaitable[asyncio.Protocol]], connection: socket.socket, place: Place
    ) -> None:
        with self._only_one(connection, place):
            protocol = await find()
            await self._loop.connect_accepted_socket(lambda: protocol, connection)

    @contextlib.contextmanager
    def _only_one(self, connection: socket.socket, place: Place) -> Iterator[None]:
        """End one connection at an error, which must not end the service of others."""
        try:
            yield
        except BaseException as error:
            connection.close()
            place.release()
            if not isinstance(error, Exception):
                raise
            if not isinstance(error, OSError):  # of a client that has disconnected
                _LOG.exception("[control] Unexpected error")


def _closed_by_client(connections: list[socket.socket]) -> list[socket.socket]:
    """Return the connections whose clients have closed them, or send no more."""
    poll = select.poll()
    for connection in connections:
        poll.register(connection, select.POLLRDHUP)
    closed = {descriptor for descriptor, events in poll.poll(0) if events & _CLOSED}
    return [connection for connection in connections if connection.fileno() in closed]


def _is_abandoned(connection: socket.socket) -> bool:
    """Tell whether a client closed a connection before it had sent the headers of a request.

    A request that is there is served even if its client does not wait for the response.
    """
    if not _closed_by_client([connection]):
        return False
    try:
        data = connection.recv(_PEEKED, socket.MSG_PEEK | socket.MSG_DONTWAIT)
    except OSError:
        return True
    return len(data) < _PEEKED and b"\n\r\n" not in data and b"\n\n" not in data
