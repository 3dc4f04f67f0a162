"""Keeps the places of connections that have ended, for as long as the kernel holds what their clients did not take."""

import asyncio
import contextlib
import fcntl
import socket
import struct
import termios
from collections.abc import Callable
from typing import NamedTuple

_LOOK_EVERY = 1.0  # seconds
_LONGEST = 30.0  # seconds; then a TCP connection is reset, which frees its memory. A Unix socket knows no reset
_RESET = struct.pack("ii", 1, 0)  # struct linger: on, for 0 seconds
_COUNT = struct.pack("i", 0)
_TCP_CLOSE = b"\x07"  # the first byte of struct tcp_info (tcp(7)) in this state


class _Held(NamedTuple):
    release: Callable[[], None]
    deadline: float
    """In the event loop's time."""


class Untaken:
    """The ended connections whose clients have yet to take an answer.

    Memory for it is the daemon's, so a client that could close one connection after the other without taking an answer
    would have any amount of it.
    """

    def __init__(self) -> None:
        """Hold nothing; call this in the event loop."""
        self._loop = asyncio.get_running_loop()
        self._held: dict[socket.socket, _Held] = {}
        self._looking: asyncio.TimerHandle | None = None
        self._is_over = False

    def hold(self, connection: socket.socket, release: Callable[[], None]) -> None:
        """Call `release` once the client has taken all that was sent, or is gone; the caller closes the connection."""
        if self._is_over or not _is_untaken(connection):
            release()
            return
        try:
            ours = connection.dup()
        except OSError:  # no files are left
            release()
            return
        with contextlib.suppress(OSError):  # it has disconnected
            ours.shutdown(socket.SHUT_WR)
        self._held[ours] = _Held(release, self._loop.time() + _LONGEST)
        self._loop.add_reader(ours, self._look_at, ours)
        if self._looking is None:
            self._looking = self._loop.call_later(_LOOK_EVERY, self._look)

    def close(self) -> None:
        """End all of them, and hold no more."""
        self._is_over = True
        if self._looking is not None:
            self._looking.cancel()
        for connection in list(self._held):
            self._end(connection)

    def _look_at(self, connection: socket.socket) -> None:
        """End a connection that its client has closed; one that only sends something waits for the next look."""
        if _is_untaken(connection):
            self._loop.remove_reader(connection)
        else:
            self._end(connection)

    def _look(self) -> None:
        """End the connections whose answers were taken: the kernel does not tell when that happens."""
        self._looking, now = None, self._loop.time()
        for connection, held in list(self._held.items()):
            if not _is_untaken(connection):
                self._end(connection)
            elif now > held.deadline and connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._end(connection)
        if self._held:
            self._looking = self._loop.call_later(_LOOK_EVERY, self._look)

    def _end(self, connection: socket.socket) -> None:
        release = self._held.pop(connection).release
        self._loop.remove_reader(connection)
        connection.close()
        release()


def _is_untaken(connection: socket.socket) -> bool:
    """Tell whether the kernel holds bytes for the client: not read yet, or on TCP not acknowledged."""
    try:
        if connection.family != socket.AF_UNIX and _is_reset(connection):
            return False
        (count,) = struct.unpack("i", fcntl.ioctl(connection, termios.TIOCOUTQ, _COUNT))
    except (OSError, ValueError):  # it is closed
        return False
    return bool(count)


def _is_reset(connection: socket.socket) -> bool:
    """Tell whether a TCP connection is over for both sides; what it would have sent is still counted then."""
    return connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) == _TCP_CLOSE
