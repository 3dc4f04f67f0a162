"""The control API from the command line, over the Unix socket, with the standard library alone."""

import contextlib
import http.client
import json
import os
import re
import socket
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from daemon.config.paths import socket_path, state_dir
from daemon.config.schema import Config
from daemon.errors import (
    AgentcronError,
    ConfigError,
    DaemonUnreachableError,
    ForbiddenError,
    InvalidError,
    NotFoundError,
    RefusedError,
)
from daemon.store.lock import socket_in_use

_TIMEOUT = 60.0
_MOMENT = 3.0
_CHUNK = 64 * 1024
_UCRED = struct.Struct("iII")  # struct ucred of unix(7): pid, uid, gid
_ERRORS: dict[int, type[Exception]] = {400: InvalidError, 403: ForbiddenError, 404: NotFoundError, 422: InvalidError}


class _Connection(http.client.HTTPConnection):
    """A connection to a Unix socket, whose path may be longer than sockaddr_un holds."""

    def __init__(self, path: Path, timeout: float | None) -> None:
        super().__init__("localhost", timeout=timeout)
        self._path = path

    def connect(self) -> None:
        folder = os.open(self._path.parent, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            self.sock.settimeout(self.timeout)
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


class Client:
    """What commands ask of the running daemon; every method raises AgentcronError for what cannot be."""

    def __init__(self, config: Config, timeout: float = _TIMEOUT, path: Path | None = None) -> None:
        """Ask the daemon of a config, or the one at a socket; an answer may take so many seconds."""
        self._path = path or _told_socket(state_dir(config)) or socket_path(config)
        self._timeout = timeout

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Return the JSON document at a path."""
        given = {name: value for name, value in query.items() if value is not None}
        return self.ask("GET", f"{path}?{urlencode(given)}" if given else path)

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        """Return the JSON answer to a request."""
        data = None if body is None else json.dumps(body).encode()
        if data is not None:
            headers["Content-Type"] = "application/json"
        answer = self._send(method, path, data, headers, self._timeout)
        document: dict[str, Any] = json.loads(b"".join(self._parts(answer)) or b"{}")
        return document

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of an answer as they come, however long that takes."""
        yield from self._parts(self._send("GET", path, None, {}, None))

    def _parts(self, answer: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while chunk := answer.read1(_CHUNK):
                yield chunk
        except (OSError, http.client.HTTPException):
            raise DaemonUnreachableError("the daemon went away before it had answered; runs go on") from None

    def _send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float | None
    ) -> http.client.HTTPResponse:
        connection = _Connection(self._path, timeout)
        try:
            connection.request(method, path, body=data, headers=headers)
            answer = connection.getresponse()
        except PermissionError:
            raise DaemonUnreachableError(
                f"{self._path} may not be used by you; ask an administrator to put you into control.group"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DaemonUnreachableError(
                f"the daemon cannot be reached at {self._path}: {reason}; start it, or look into its log for why"
            ) from None
        if answer.status >= http.HTTPStatus.BAD_REQUEST:
            raise _refusal(answer)
        return answer


def _told_socket(folder: Path) -> Path | None:
    """Return where the daemon of a state directory says it listens, if it is that daemon which does so."""
    told = socket_in_use(folder)
    if told is None:
        return None
    path, holder = told
    connection = _Connection(path, _MOMENT)
    try:
        with contextlib.closing(connection):
            connection.connect()
            credentials = connection.sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size)
    except OSError:
        return None
    return path if _UCRED.unpack(credentials)[0] == holder else None


def answers(config: Config) -> bool:
    """Tell whether the daemon answers within a moment."""
    try:
        Client(config, _MOMENT).get("/healthz")
    except AgentcronError:
        return False
    return True


def what_is_amiss(config: Config) -> str | None:
    """Return what the daemon says keeps it from its work, None if it does not answer within a moment."""
    daemon = daemon_at(config)
    if daemon is None:  # one of an earlier version does not say
        return "" if answers(config) else None
    return daemon["amiss"] or ""


def daemon_at(config: Config, path: Path | None = None) -> dict[str, Any] | None:
    """Return which daemon it is that answers a client of the same arguments, None if none does or it does not say."""
    try:
        daemon = Client(config, _MOMENT, path).get("/daemon")
    except (AgentcronError, ValueError):
        return None
    said = daemon.keys() if isinstance(daemon, dict) else set()
    return daemon if {"amiss", "config_file", "state_dir", "timezone"} <= said else None


def schedule_path(agent: str, name: str, what: str = "") -> str:
    """Return the path of a schedule, or of something of it."""
    return f"/agents/{quote(agent)}/schedules/{quote(name)}" + (f"/{what}" if what else "")


_OPTIONS = {
    "cron_expression": "--cron",
    "interval_seconds": "--every",
    "offset_seconds": "--offset",
    "jitter_seconds": "--jitter",
    "catchup_window_seconds": "--catchup-window",
    "overlap_policy": "--overlap",
    "initial_input.content": "--input",
    "task_params": "--params",
    "task_metadata": "--metadata",
    "start_at": "--start-at",
    "end_at": "--end-at",
}
"""What the command line calls the fields of the API."""
_FIELD = re.compile(r"(?<![\w.])(" + "|".join(map(re.escape, _OPTIONS)) + r")(?![\w.])")


def _refusal(answer: http.client.HTTPResponse) -> Exception:
    try:
        body = json.loads(answer.read())
        if body["code"] == "config":
            return ConfigError(body["data"]["problems"])
        fields = [_in_options(field["field"], field["problem"]) for field in body["data"].get("fields", [])]
        text = "; ".join(fields or [_FIELD.sub(_option, body["message"], count=1)])
    except (ValueError, LookupError, TypeError, AttributeError):
        text = f"the daemon answered {answer.status} {answer.reason}"
    return _ERRORS.get(answer.status, RefusedError)(text)


def _in_options(field: str, problem: str) -> str:
    """Tell a problem of a field of the API in the words of the command line."""
    said = _FIELD.sub(_option, problem)
    return said if field == "body" else f"{_FIELD.sub(_option, field)}: {said}"


def _option(field: re.Match[str]) -> str:
    return _OPTIONS[field[0]]
