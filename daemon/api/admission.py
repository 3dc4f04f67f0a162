"""Limits of connections: each user or address gets a share of them, and some are kept for administrators."""

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
        self.most = most
        self._shares = {Rank.ANYBODY: max(_LEAST_SHARE, most // 8), Rank.ADMIN: most // 2, Rank.ROOT: most}
        self._totals = {Rank.ANYBODY: most - most // 4, Rank.ADMIN: most - most // 8, Rank.ROOT: most}
        self._rank_of = rank_of
        self._held: Counter[Holder] = Counter()
        self._total = 0

    def admit(self, holder: Holder) -> "Place | None":
        """Return a place for a connection, None if there are too many."""
        rank = self._rank_of(holder)
        if self._held[holder] >= self._shares[rank] or self._total >= self._totals[rank]:
            return None
        self._held[holder] += 1
        self._total += 1
        return Place(self, holder, rank)

    def release(self, holder: Holder) -> None:
        """Note that an admitted connection has ended; for its place to call."""
        self._total -= 1
        self._held[holder] -= 1
        if not self._held[holder]:
            del self._held[holder]

    def held(self, holder: Holder) -> int:
        """Return how many connections somebody has."""
        return self._held[holder]


class Place:
    """The place of one connection."""

    def __init__(self, admission: Admission, holder: Holder, rank: Rank) -> None:
        self.rank = rank
        self._admission = admission
        self._holder: Holder | None = holder

    def release(self) -> None:
        """Give the place back; once is enough."""
        if self._holder is not None:
            self._admission.release(self._holder)
            self._holder = None


def holder_of(connection: socket.socket, address: object) -> Holder:
    """Return who made a connection, of which accept(2) returned the address."""
    if connection.family == socket.AF_UNIX:
        return Holder(user_of_peer(connection), None)
    return Holder(None, network_of(address))


def network_of(peername: object) -> str:
    """Return the address of a TCP client by its socket address; for IPv6 it is the network's."""
    if not isinstance(peername, tuple):  # it has disconnected
        return ""
    address = ip_address(peername[0].partition("%")[0])
    if isinstance(address, IPv6Address):
        mapped = address.ipv4_mapped
        return str(mapped or ip_network((address, _NETWORK), strict=False))
    return str(address)


def raw_refusal(status: int, reason: str, message: str, code: str, retry_after: int | None = None) -> bytes:
    """Return the bytes of a response that refuses a connection before there is a request to answer."""
    body = json.dumps({"message": message, "code": code, "data": {}})
    head = f"HTTP/1.1 {status} {reason}\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n"
    retry = "" if retry_after is None else f"Retry-After: {retry_after}\r\n"
    return f"{head}{retry}Connection: close\r\n\r\n{body}".encode()
