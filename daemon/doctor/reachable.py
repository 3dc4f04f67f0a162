"""Check that the daemon, the servers of agents and the remotes of repositories respond."""

import contextlib
import http.client
import os
import shlex
import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from urllib.parse import urlsplit

from daemon.config.paths import state_dir
from daemon.config.schema import Config, Environment, RemoteAgent
from daemon.doctor.findings import Finding, error, note, ok, warning
from daemon.errors import StoreError
from daemon.store.lock import running_daemon
from daemon.workspaces.clean import no_log
from daemon.workspaces.git import GitError, without_credentials
from daemon.workspaces.jobs import Source
from daemon.workspaces.mirror import Mirror
from daemon.workspaces.remote import ask_remote, may_be_commit, names_of
from daemon.workspaces.sources import source_of

_READ_TIMEOUT = 5.0  # seconds, for each read from a server
_TOTAL_TIMEOUT = 10.0  # seconds, for its whole response
_GIT_TIMEOUT = 20.0  # seconds
_AT_ONCE = 16
_LONGEST_REASON = 300  # characters; a server decides what its first line is


def check_reachable(config: Config, is_responding: Callable[[], bool]) -> Iterator[Finding]:
    """Check the daemon, the servers of agents and the environments."""
    yield _check_daemon(config, is_responding)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        servers = [
            pool.submit(_check_server, f"agents.{name}", agent.url)
            for name, agent in config.agents.items()
            if isinstance(agent, RemoteAgent)
        ]
        places = [pool.submit(_check_environment, config, name, one) for name, one in config.environments.items()]
        yield from (server.result() for server in servers)
        yield from (found for place in places if (found := place.result()) is not None)


def _check_daemon(config: Config, is_responding: Callable[[], bool]) -> Finding:
    folder = state_dir(config)
    try:
        pid = running_daemon(folder)
    except StoreError as problem:
        return error("daemon", str(problem), "run doctor as root or as the daemon's user")
    if pid is None:
        return note(
            "daemon", f"no daemon runs on {folder}", "start it with `systemctl start agentcron` or `agentcron run`"
        )
    if not is_responding():
        return error(
            "daemon", f"pid {pid} does not respond on its socket", "check its log, then `systemctl restart agentcron`"
        )
    return ok("daemon", f"pid {pid} responds")


def _check_server(place: str, url: str) -> Finding:
    parts = urlsplit(url)
    shown = without_credentials(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_READ_TIMEOUT, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_READ_TIMEOUT)
    )

    overdue = threading.Event()
    limit = threading.Timer(
        _TOTAL_TIMEOUT, _abort, (connection, overdue)
    )  # a server that sends byte by byte never hits the read timeout
    limit.start()
    try:
        with contextlib.closing(connection):
            connection.request("GET", parts.path or "/")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as problem:
        if overdue.is_set():
            return _timed_out(place, shown)
        reason = getattr(problem, "strerror", None) or str(problem)[:_LONGEST_REASON] or type(problem).__name__
        return error(place, f"{shown} does not respond: {reason}", "start the agent's server, or correct its url")
    finally:
        limit.cancel()
    return (
        _timed_out(place, shown) if overdue.is_set() else ok(place, f"{shown} responds (HTTP {status} to a plain GET)")
    )


def _abort(connection: http.client.HTTPConnection, overdue: threading.Event) -> None:
    overdue.set()
    if connection.sock is not None:  # else it is still resolving the name, which has its own timeout
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _timed_out(place: str, shown: str) -> Finding:
    what = f"{shown} did not respond within {_TOTAL_TIMEOUT:.0f} s"
    return error(place, what, "check the agent's server, or correct its url")


def _check_environment(config: Config, name: str, environment: Environment) -> Finding | None:
    place = f"environments.{name}"
    if environment.mode == "local" and environment.path is not None:
        folder = config.resolve(environment.path)
        if os.path.isdir(folder):  # noqa: PTH112 - that of Path raises
            return ok(place, f"{folder} exists")
        return error(f"{place}.path", f"{folder} is not a directory", "create it, or correct the path")
    source = source_of(config, name)
    if source is None or environment.repository is None:
        return None
    shown = without_credentials(environment.repository)
    try:
        existing = ask_remote(source.repository, ["HEAD", *names_of(source.ref or "")], _GIT_TIMEOUT)
    except GitError as problem:
        found = error if environment.require_fetch else warning
        fix = "correct the URL, or give the daemon's user access"
        if "dubious ownership" in str(problem):  # git before 2.38, which does not let us declare it safe
            fix = f"if you trust its owner: `git config --system --add safe.directory {shlex.quote(source.repository)}`"
        return found(f"{place}.repository", f"{shown}: {problem}", fix)
    return _check_ref(config, source, existing) or ok(f"{place}.repository", f"{shown} responds")


def _check_ref(config: Config, source: Source, existing: frozenset[str]) -> Finding | None:
    """Return what is wrong with the ref of an environment, given those of its names that the remote has."""
    if source.ref is None or existing.intersection(names_of(source.ref)):
        return None
    place, what = f"environments.{source.environment}.ref", f"{source.ref!r} is not a branch or tag of the repository"
    if not may_be_commit(source.ref):
        return error(place, what, "push it, or correct ref")
    if Mirror(state_dir(config), source, _GIT_TIMEOUT, no_log).has_commit():
        return None
    return note(place, f"{what}; whether it is a commit shows when it is fetched")
