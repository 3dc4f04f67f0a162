"""Limits of connections: each user or address gets a share of them, and some are kept for administrators."""

import asyncio
import json
import socket
from collections import Counter
from collections.abc import Callable
from enum import Enum
from ipaddress import IPv6Address, ip_address, ip_network
from typing import NamedTuple

from daemon.socket_peer import user_of_peer

_LEAST_SHARE = 4  # connections that anybody may have, however few there are
_NETWORK = 64  # bits of an IPv6 address that name a network; its hosts choose the others as they like
_LINGERING = 1.0  # seconds that a rejected client has to read the response
_MOST_LINGERING = 64  # rejected clients that get one
_LONGEST_REQUEST = 64 * 1024  # bytes of a rejected request that are read
_RETRY_AFTER = 5  # seconds


class Rank(Enum):
    """Whose connections these are, as far as it is known when they are made."""

    ANYBODY = "anybody"
    ADMIN = "admin"
    """The daemon's user, and whoever `access.admins` names."""
    ROOT = "root"


class Holder(NamedTuple):
    """Who holds connections: a user on the Unix socket, an address on TCP."""

    user: int | None
    address: str | None


class Admission:
    """Counts the connections of one socket."""

    def __init__(self, most: int, rank_of: Callable[[Holder], Rank]) -> None:
        """Allow `most` connections: a quarter is kept for administrators and root, half of that for root alone."""
        self._shares = {Rank.ANYBODY: max(_LEAST_SHARE, most // 8), Rank.ADMIN: most // 2, Rank.ROOT: most}
        self._totals = {Rank.ANYBODY: most - most // 4, Rank.ADMIN: most - most // 8, Rank.ROOT: most}
        self._rank_of = rank_of
        self._held: Counter[Holder] = Counter()
        self._total = 0

    def admit(self, holder: Holder) -> bool:
        """Count a connection and return True, or return False if there are too many."""
        rank = self._rank_of(holder)
        if self._held[holder] >= self._shares[rank] or self._total >= self._totals[rank]:
            return False
        self._held[holder] += 1
        self._total += 1
        return True

    def release(self, holder: Holder) -> None:
        """Note that an admitted connection has ended."""
        self._total -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    def held(self, holder: Holder) -> int:
        """Return how many connections somebody has."""
        return self._held[holder]


def holder_of(transport: asyncio.BaseTransport) -> Holder:
    """Return who made a connection."""
    connection = transport.get_extra_info("socket")
    if connection.family == socket.AF_UNIX:
        return Holder(user_of_peer(connection), None)
    return Holder(None, network_of(transport.get_extra_info("peername")))


def network_of(peername: tuple[str, ...] | None) -> str:
    """Return the address of a TCP client, which names its network if it is an IPv6 address."""
    if not peername:  # it has disconnected
        return ""
    address = ip_address(peername[0].partition("%")[0])
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ip_network((address, _NETWORK), strict=False))
    return str(address)


class Lingering:
    """Counts the rejected clients that still may read the response."""

    def __init__(self) -> None:
        self.count = 0


class Entrance(asyncio.Protocol):
    """The first protocol of a connection: gives it to the protocol that serves it, or rejects it."""

    def __init__(
        self,
        admission: Admission,
        serve: Callable[[Callable[[], None]], asyncio.Protocol],
        rejected: Callable[[Holder, int], None],
        lingering: Lingering,
    ) -> None:
        """Prepare; `serve` gets what to call when the connection ends, `rejected` who has how many connections."""
        self._admission = admission
        self._serve = serve
        self._rejected = rejected
        self._lingering = lingering
        self._read = 0
        self._end: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Admit or reject the connection."""
        if not isinstance(transport, asyncio.Transport):
            raise TypeError("a server of a stream socket makes transports of streams")
        self._transport = transport
        holder = holder_of(transport)
        if not self._admission.admit(holder):
            self._rejected(holder, self._admission.held(holder))
            self._reject()
            return
        protocol = self._serve(lambda: self._admission.release(holder))
        transport.set_protocol(protocol)
        protocol.connection_made(transport)

    def _reject(self) -> None:
        """Answer, and give the client a moment to read: what it has sent must be read, or it would see a reset."""
        if self._lingering.count >= _MOST_LINGERING:
            self._transport.abort()
            return
        self._lingering.count += 1
        self._end = asyncio.get_running_loop().call_later(_LINGERING, self._transport.abort)
        message = "too many connections of this user or address, or of all; close some, or try again in a moment"
        self._transport.write(raw_refusal(503, "Service Unavailable", message, "unavailable", _RETRY_AFTER))
        self._transport.write_eof()

    def data_received(self, data: bytes) -> None:
        """Read and ignore a rejected request."""
        self._read += len(data)
        if self._read > _LONGEST_REQUEST:
            self._transport.abort()

    def connection_lost(self, _: BaseException | None) -> None:
        """Forget a rejected client."""
        if self._end is not None:
            self._end.cancel()
            self._lingering.count -= 1


def raw_refusal(status: int, reason: str, message: str, code: str, retry_after: int | None = None) -> bytes:
    """Return the bytes of a response that refuses a connection before there is a request to answer."""
    body = json.dumps({"message": message, "code": code, "data": {}})
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    return f"{head}{retry}Connection: close\r\n\r\n{body}".encode()
