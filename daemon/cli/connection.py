"""A connection to a daemon's socket, whose other end may be anything: all of a request ends in time and in size."""

import http.client
import os
import socket
import struct
import time
from pathlib import Path
from typing import TYPE_CHECKING

from daemon.cli.privileges import as_root
from daemon.socket_peer import user_of_peer

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer, WriteableBuffer

_LARGEST_RESPONSE = 256 * 1024**2  # bytes, with headers, trailers, and what frames its chunks
_TIMEVAL = struct.Struct("ll")  # struct timeval: seconds, microseconds


class OverlongResponseError(OSError):
    """A response is longer than any of a daemon."""


class BoundedSocket(socket.socket):
    """A Unix socket on which everything together ends within some seconds and bytes.

    A timeout of a socket is one for each call, so that a byte a second would satisfy it for ever.
    """

    def __init__(self, timeout: float) -> None:
        """Let everything take `timeout` seconds from now on."""
        super().__init__(socket.AF_UNIX, socket.SOCK_STREAM)
        self._end: float | None = time.monotonic() + timeout
        self._left = _LARGEST_RESPONSE

    def lift_limits(self) -> None:
        """Let what follows take any time, and have any length."""
        self._end = None

    def recv_into(self, buffer: "WriteableBuffer", nbytes: int = 0, flags: int = 0) -> int:
        """Receive as a socket does; raise TimeoutError, or OverlongResponseError, once the bound is reached."""
        self._limit_wait()
        received = super().recv_into(buffer, nbytes, flags)
        self._left -= received
        if self._left < 0 and self._end is not None:
            raise OverlongResponseError(f"it sent more than {_LARGEST_RESPONSE} bytes")
        return received

    def sendall(self, data: "ReadableBuffer", flags: int = 0) -> None:
        """Send all of something; raise TimeoutError likewise."""
        self._limit_wait()
        super().sendall(data, flags)

    def _limit_wait(self) -> None:
        """Let the next call take the seconds that are left; raise TimeoutError if none are."""
        if self._end is None:
            self.settimeout(None)
            return
        left = self._end - time.monotonic()
        if left <= 0:
            raise TimeoutError("timed out")
        self.settimeout(left)


class Connection(http.client.HTTPConnection):
    """A connection to a Unix socket whose path may be longer than sockaddr_un allows.

    Root's command connects as root, but only to the daemon of the user that it acts as: a link may lead elsewhere.
    """

    stream: BoundedSocket
    """The connected socket, also when the response has taken it over."""

    def __init__(self, path: Path, timeout: float) -> None:
        """Connect to a path; the request and all of its response may take `timeout` seconds."""
        super().__init__("localhost")
        self._path = path
        self._seconds = timeout

    def connect(self) -> None:
        """Connect; raise OSError."""
        user = os.geteuid()
        with as_root():
            is_root = os.geteuid() != user
            self._connect()
        if is_root and user_of_peer(self.sock) != user:
            self.close()
            self._connect()

    def _connect(self) -> None:
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = self.stream = BoundedSocket(self._seconds)
            # settimeout() would fail at once where the queue of the daemon is full
            seconds, part = divmod(int(self._seconds * 1e6), 10**6)
            self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _TIMEVAL.pack(seconds, part))
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)
