"""Identifies the principal of a request: by the peer's credentials on the Unix socket, by a token on TCP."""

import asyncio
import hmac
import os
import socket
import struct
from ipaddress import ip_address
from pathlib import Path
from weakref import WeakKeyDictionary

from aiohttp import web

from daemon.access import user_of
from daemon.agents.process.supervisor import tree
from daemon.config.schema import Config
from daemon.config.secrets import read_token
from daemon.store.database import Database
from daemon.store.runs import running_runs

_PEER = struct.Struct("3i")  # struct ucred of unix(7): pid, uid, gid
_DEEPEST = 1000  # ancestors of a process that are examined


class Peers:
    """The principals of connections to the Unix socket, each determined once."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._known: WeakKeyDictionary[asyncio.BaseTransport, str] = WeakKeyDictionary()

    async def principal_of(self, transport: asyncio.BaseTransport) -> str:
        """Return the principal of a connection; raise HTTPForbidden if it cannot be determined."""
        known = self._known.get(transport)
        if known is None:
            known = self._known[transport] = await self._identify(transport)
        return known

    async def _identify(self, transport: asyncio.BaseTransport) -> str:
        peer: socket.socket = transport.get_extra_info("socket")
        pid, uid, _ = _PEER.unpack(peer.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size))
        runs = {
            tree.Process(run.pid, run.pid_started): run.id
            for run in await self._database.read(running_runs)
            if run.pid is not None and run.pid_started is not None
        }
        if runs:
            ancestors, complete = lineage(pid)
            for process in ancestors:
                if process in runs:
                    return f"run:{runs[process]}"
            if uid == os.geteuid():  # agents run as this user
                marked = marked_run(pid, set(runs.values()))
                if marked is not None:
                    return f"run:{marked}"
                if not complete:
                    raise web.HTTPForbidden(reason="the process that connected has ended, so it cannot be identified")
        return await asyncio.to_thread(user_of, uid)


def lineage(pid: int) -> tuple[list[tree.Process], bool]:
    """Return a process and its ancestors, and whether they could be followed up to the first process."""
    found: list[tree.Process] = []
    while pid > 1 and len(found) < _DEEPEST:
        seen = tree.parent_of(pid)
        if seen is None:
            return found, False
        process, pid = seen
        found.append(process)
    return found, pid in {0, 1} and bool(found)


def marked_run(pid: int, active: set[int]) -> int | None:
    """Return the active run named in a process's environment, which also holds if its supervisor was killed."""
    try:
        entries = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except OSError:
        return None
    for entry in entries:
        name, _, value = entry.partition(b"=")
        if name == b"AGENTCRON_RUN_ID" and value.isdigit() and len(value) < 20 and int(value) in active:  # noqa: PLR2004
            return int(value)
    return None


def read_tokens(config: Config) -> dict[str, bytes]:
    """Return the bearer tokens of a config by name; raise ConfigError for an invalid one."""
    return {token.name: read_token(config, token).encode() for token in config.control.tokens}


class Tokens:
    """The bearer tokens in force, by name."""

    def __init__(self, values: dict[str, bytes]) -> None:
        self._values = values

    def replace(self, values: dict[str, bytes]) -> None:
        """Accept only these tokens from now on."""
        self._values = values

    def principal_of(self, request: web.Request) -> str | None:
        """Return the principal of a request's token, None without a valid one; compares in constant time."""
        kind, _, given = request.headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not given:
            return None
        offered = given.strip().encode(errors="surrogateescape")
        matching = [name for name, value in self._values.items() if hmac.compare_digest(value, offered)]
        return f"token:{matching[0]}" if matching else None


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
