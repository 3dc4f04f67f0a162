"""The process at the other end of a Unix socket, told from a later process that got its pid."""

import errno
import os
import select
import socket
import struct
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from asyncio.trsock import TransportSocket

_CREDENTIALS = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_SO_PEERPIDFD = 77  # asm-generic/socket.h, since Linux 6.5; socket(7)
_UNSUPPORTED = {errno.ENOPROTOOPT, errno.EOPNOTSUPP}


class SocketPeer:
    """The process that connected a socket, or, for the one who connected, the process that listens.

    The kernel names its pid and its user as they were then. The process may have ended since, and the pid may be that
    of another process by now. So read about the pid first, then ask `is_alive`: what was read is true if it returns
    True, since a pid is not given away while its process lives. Close it after use.
    """

    def __init__(self, connection: "socket.socket | TransportSocket") -> None:
        self.pid, self.uid = _credentials(connection)
        self._descriptor, self._is_exact = _descriptor_of(connection)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    @property
    def is_elsewhere(self) -> bool:
        """Whether it lives outside this pid namespace and those below it, where it has no pid."""
        return self.pid == 0

    def is_alive(self) -> bool:
        """Return whether the process lives, so that its pid still names it and no other.

        Before Linux 6.5 nothing tells a process from a later one with the same pid and user.
        """
        if self._descriptor is not None:
            end = select.poll()
            end.register(self._descriptor, select.POLLIN)
            return not end.poll(0)
        return not self._is_exact and self.uid in _users_of(self.pid)


def user_of_peer(connection: "socket.socket | TransportSocket") -> int:
    """Return the id of the user who connected a socket."""
    return _credentials(connection)[1]


def _credentials(connection: "socket.socket | TransportSocket") -> tuple[int, int]:
    data = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
    pid, uid, _ = _CREDENTIALS.unpack(data)
    return pid, uid


def _descriptor_of(connection: "socket.socket | TransportSocket") -> tuple[int | None, bool]:
    """Return a pidfd of the peer, None if it has ended or none can be had; and whether the kernel gives them at all."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD), True
    except OSError as error:
        return None, error.errno not in _UNSUPPORTED


def _users_of(pid: int) -> set[int]:
    """Return the user ids of a process: real, effective, saved, and of the file system; empty if it cannot be seen."""
    try:
        with Path(f"/proc/{pid}/status").open("rb") as stream:
            lines = stream.read().split(b"\n")
    except OSError:
        return set()
    return {int(uid) for line in lines if line.startswith(b"Uid:") for uid in line.split()[1:]}
