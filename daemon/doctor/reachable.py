"""What agents need beyond this process: the daemon, their servers, and the remotes of their repositories."""

import contextlib
import http.client
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
from daemon.runs.workspace import source_of
from daemon.store.lock import running_daemon
from daemon.workspaces.git import GitError, without_credentials
from daemon.workspaces.mirror import ask_remote

_PATIENCE = 5.0  # seconds for a server to say something
_MOST_PATIENCE = 10.0  # seconds for it to have answered
_GIT_PATIENCE = 20.0
_AT_ONCE = 16


def check_reachable(config: Config, answers: Callable[[], bool]) -> Iterator[Finding]:
    """Ask whether the daemon answers, and all that agents need."""
    yield _check_daemon(config, answers)
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        servers = [
            pool.submit(_check_server, f"agents.{name}", agent.url)
            for name, agent in config.agents.items()
            if isinstance(agent, RemoteAgent)
        ]
        places = [pool.submit(_check_environment, config, name, one) for name, one in config.environments.items()]
        yield from (server.result() for server in servers)
        yield from (found for place in places if (found := place.result()) is not None)


def _check_daemon(config: Config, answers: Callable[[], bool]) -> Finding:
    folder = state_dir(config)
    try:
        pid = running_daemon(folder)
    except StoreError as problem:
        return error("daemon", str(problem), "run doctor as root or as the daemon's user")
    if pid is None:
        return note("daemon", f"none runs on {folder}", "start it: systemctl start agentcron, or agentcron run")
    if not answers():
        return error(
            "daemon", f"pid {pid} does not answer on its socket", "look into its log; systemctl restart agentcron"
        )
    return ok("daemon", f"pid {pid} answers")


def _check_server(place: str, url: str) -> Finding:
    parts = urlsplit(url)
    shown = without_credentials(url)
    host, port = parts.hostname or "", parts.port
    connection = (
        http.client.HTTPSConnection(host, port, timeout=_PATIENCE, context=ssl.create_default_context())
        if parts.scheme == "https"
        else http.client.HTTPConnection(host, port, timeout=_PATIENCE)
    )

    overdue = threading.Event()
    limit = threading.Timer(_MOST_PATIENCE, _give_up, (connection, overdue))  # bytes that trickle never time out
    limit.start()
    try:
        with contextlib.closing(connection):
            connection.request("GET", parts.path or "/")
            status = connection.getresponse().status
    except (OSError, http.client.HTTPException, ValueError) as problem:
        if overdue.is_set():
            return _overdue(place, shown)
        reason = getattr(problem, "strerror", None) or str(problem) or type(problem).__name__
        return error(place, f"{shown} does not answer: {reason}", "start the agent's server, or correct its url")
    finally:
        limit.cancel()
    return _overdue(place, shown) if overdue.is_set() else ok(place, f"{shown} answers (HTTP {status} to a plain GET)")


def _give_up(connection: http.client.HTTPConnection, overdue: threading.Event) -> None:
    overdue.set()
    if connection.sock is not None:  # else it is still looking for its address, which has limits of its own
        with contextlib.suppress(OSError):
            connection.sock.shutdown(socket.SHUT_RDWR)


def _overdue(place: str, shown: str) -> Finding:
    what = f"{shown} has not answered within {_MOST_PATIENCE:.0f} s"
    return error(place, what, "look what keeps the agent's server, or correct its url")


def _check_environment(config: Config, name: str, environment: Environment) -> Finding | None:
    place = f"environments.{name}"
    if environment.mode == "local" and environment.path is not None:
        folder = config.resolve(environment.path)
        if folder.is_dir():
            return ok(place, f"{folder} is there")
        return error(f"{place}.path", f"{folder} is no folder", "make it, or correct the path")
    if environment.mode != "git" or environment.repository is None:
        return None
    shown = without_credentials(environment.repository)
    try:
        ask_remote(source_of(config, name, environment).repository, _GIT_PATIENCE)
    except GitError as problem:
        found = error if environment.require_fetch else warning
        return found(f"{place}.repository", f"{shown}: {problem}", "correct it, or give the daemon's user access to it")
    return ok(f"{place}.repository", f"{shown} answers")
