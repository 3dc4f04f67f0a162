"""Identifies the principal of a request: by the peer's credentials on the Unix socket, by a token on TCP."""

import asyncio
import hmac
import os
import socket
from asyncio.trsock import TransportSocket
from collections.abc import Collection
from dataclasses import dataclass
from functools import partial
from ipaddress import ip_address
from itertools import pairwise
from pathlib import Path

from aiohttp import web

from daemon.access import user_of
from daemon.agents.process.launcher import boot_id
from daemon.agents.process.supervisor import tree
from daemon.config.schema import Config
from daemon.config.secrets import read_token
from daemon.socket_peer import SocketPeer
from daemon.store.database import Database
from daemon.store.unfinished_runs import running_processes

ORDINARY = 32
"""Ancestors of a process that are examined in half a millisecond; few processes have as many."""
_DEEPEST = 1000  # ancestors of a process that are examined at all
_LARGEST_ENVIRONMENT = 256 * 1024  # bytes of it that are examined
_LONGEST_NUMBER = 20  # digits; no run has a longer one
_WALKS = 5  # attempts to follow a process to its ancestors while those change


@dataclass(frozen=True)
class Peer:
    """Who connected to the Unix socket, as it was then: the descriptor may have been passed on since."""

    uid: int
    process: tree.Process | None
    """The process that connected; None if it could not be examined, because it ended or is hidden."""
    lineage: tuple[tree.Process, ...] = ()
    """The process and its ancestors."""
    is_complete: bool = False
    """Whether the lineage reaches the first process, so that it certainly shows whether a run contains the process."""
    marked: int | None = None
    """The run named in the process's environment, which also holds if its supervisor was killed."""


def examine(connection: socket.socket | TransportSocket, deepest: int = _DEEPEST) -> Peer:
    """Return who connected, with up to `deepest` ancestors; call this as soon as the connection is accepted."""
    with SocketPeer(connection) as peer:
        if peer.is_elsewhere:  # runs are in this pid namespace or below it
            return Peer(peer.uid, None, is_complete=True)
        ancestors, is_complete = lineage(peer.pid, deepest)
        marked = marked_run(peer.pid) if peer.uid == os.geteuid() else None  # agents run as this user
        if not ancestors or not peer.is_alive():
            return Peer(peer.uid, None)
        return Peer(peer.uid, ancestors[0], tuple(ancestors), is_complete, marked)


class Peers:
    """The principals of connections to the Unix socket."""

    def __init__(self, database: Database) -> None:
        self._database = database

    async def principal_of(self, peer: Peer) -> str:
        """Return the principal of who connected; raise HTTPForbidden if it cannot be determined."""
        found = await self._database.read(partial(running_processes, boot_id=boot_id()))
        runs = {tree.Process(pid, started): run for run, pid, started in found}
        for process in peer.lineage:
            if process in runs:
                return f"run:{runs[process]}"
        if peer.uid == os.geteuid():
            if peer.marked in runs.values():
                return f"run:{peer.marked}"
            if not _is_certain(peer):
                raise web.HTTPForbidden(reason="the process that connected has ended, so it cannot be identified")
        return await asyncio.to_thread(user_of, peer.uid)


def _is_certain(peer: Peer) -> bool:
    """Return whether a process that is in no active run was in none when it connected: a run's end ends its processes.

    Without this an agent could connect, pass the connection on, and have it used as the daemon's user after its run.
    """
    if peer.process is None:
        return peer.is_complete
    return peer.is_complete and tree.start_of(peer.process.pid) == peer.process.started


def lineage(pid: int, deepest: int = _DEEPEST) -> tuple[list[tree.Process], bool]:
    """Return a process and its ancestors, and whether they could be followed up to the first process.

    An ancestor may end during the walk, and a stranger may get its pid. It has then started later than its supposed
    child, and the child has another parent by now: walk again.
    """
    for _ in range(_WALKS):
        found, is_complete = _walk(pid, deepest)
        if all(parent.started <= child.started for child, parent in pairwise(found)):
            return found, is_complete
    return found[:1], False


def _walk(pid: int, deepest: int) -> tuple[list[tree.Process], bool]:
    found: list[tree.Process] = []
    while pid > 1 and len(found) < deepest:
        seen = tree.parent_of(pid)
        if seen is None:
            return found, False
        process, pid = seen
        found.append(process)
    return found, pid in {0, 1} and bool(found)


def marked_run(pid: int) -> int | None:
    """Return the run named in a process's environment, None without one."""
    try:
        with Path(f"/proc/{pid}/environ").open("rb", buffering=0) as stream:
            entries = (stream.read(_LARGEST_ENVIRONMENT) or b"").split(b"\0")
    except OSError:
        return None
    for entry in entries:
        name, _, value = entry.partition(b"=")
        if name == b"AGENTCRON_RUN_ID" and value.isdigit() and len(value) < _LONGEST_NUMBER:
            return int(value)
    return None


def read_tokens(config: Config) -> dict[str, bytes]:
    """Return the bearer tokens of a config by name; raise ConfigError for an invalid one."""
    return {token.name: read_token(config, token).encode() for token in config.control.tokens}


class Tokens:
    """The bearer tokens in force, by name."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def changed_in(self, values: dict[str, bytes]) -> list[str]:
        """Return the names of the tokens that would get another value."""
        return [name for name, value in self._values.items() if name in values and values[name] != value]

    def replace(self, values: dict[str, bytes]) -> None:
        """Accept only these tokens from now on."""
        self._values = values

    def name_of(self, offered: bytes, among: Collection[str] | None = None) -> str | None:
        """Return the name of a token, None if it is not valid, or not one of those named; compares in constant time."""
        matching = [name for name, value in self._values.items() if hmac.compare_digest(value, offered)]
        return next((name for name in matching if among is None or name in among), None)


def token_in(request: web.Request) -> bytes | None:
    """Return the bearer token that a request offers, None without one."""
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    if kind.lower() != "bearer" or not given.strip():
        return None
    return given.strip().encode(errors="surrogateescape")


class Hosts:
    """The host names by which the API may be addressed over TCP, which prevents DNS rebinding."""

    def __init__(self, config: Config, listen: str) -> None:
        names = {"localhost", "127.0.0.1", "[::1]", socket.gethostname().lower(), _host(listen)}
        if config.control.public_url is not None:
            names.add(_host(config.control.public_url.partition("://")[2].partition("/")[0]))
        self._names = names

    def are_named_by(self, request: web.Request) -> bool:
        """Return whether a request's `Host` names this machine or the address at which it arrived."""
        named = _host(request.headers.get("Host", ""))
        arrived = request.transport.get_extra_info("sockname") if request.transport else None
        return named in self._names or (arrived is not None and _is_same(named, arrived[0]))


def is_cross_origin(request: web.Request) -> bool:
    """Return whether a web page of another origin sent a request (Fetch standard, `Origin` and `Sec-Fetch-Site`)."""
    origin = request.headers.get("Origin")
    if origin is not None and origin.partition("://")[2].lower() != request.headers.get("Host", "").lower():
        return True
    return request.headers.get("Sec-Fetch-Site", "none") not in {"none", "same-origin"}


def _is_same(host: str, address: str) -> bool:
    """Return whether a host is an address; an IPv4 address equals its mapped IPv6 form."""
    try:
        named = ip_address(host.removeprefix("[").removesuffix("]"))
        arrived = ip_address(address.partition("%")[0])
    except ValueError:
        return False
    return named in {arrived, getattr(arrived, "ipv4_mapped", None)}


def _host(address: str) -> str:
    """Return the host of `host:port`; an IPv6 address keeps its brackets."""
    host, colon, port = address.lower().rpartition(":")
    return host if colon and port.isdigit() else address.lower()
