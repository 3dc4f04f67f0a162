"""Call the control API over the Unix socket, with the standard library alone."""

import contextlib
import http.client
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

from daemon.cli.connection import BoundedSocket, Connection, OverlongResponseError
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
from daemon.model import LARGEST_BODY
from daemon.rules.schedule_fields import DURATION, FIELDS
from daemon.socket_peer import SocketPeer
from daemon.store.lock import socket_in_use

_TIMEOUT = 60.0  # seconds
_SHORT_TIMEOUT = 3.0  # seconds, to find out whether a daemon answers at all
_HANGS_AFTER = 10.0  # seconds
_CHUNK = 64 * 1024
_LARGEST_DOCUMENT = 128 * 1024**2  # bytes of a response that is not a stream
_LARGEST_LIST = 512 * 1024**2  # bytes of all pages of a list
_MOST_PAGES = 20_000
FIX = "find out with `ss -xlp` which program listens there"
_ERRORS: dict[int, type[Exception]] = {400: InvalidError, 403: ForbiddenError, 404: NotFoundError, 422: InvalidError}


class Client:
    """A client of the running daemon; every method raises AgentcronError if the request fails."""

    def __init__(self, config: Config, timeout: float = _TIMEOUT, path: Path | None = None) -> None:
        """Use the daemon of a config, or the one at a socket; each response may take `timeout` seconds, to its end."""
        self._path = path or _verified_socket(state_dir(config)) or socket_path(config)
        self._timeout = timeout

    def get(self, path: str, **query: object) -> dict[str, Any]:
        """Return the JSON document at a path."""
        return self.ask("GET", _with_query(path, **query))

    def pages(self, path: str, key: str, limit: int | None = None, **query: object) -> dict[str, Any]:
        """Return a list at a path, with the entries under `key` of as many pages as it takes; None: all of them."""
        found: list[Any] = []
        cursor, size = query.pop("cursor", None), 0
        for _ in range(_MOST_PAGES):
            left = None if limit is None else limit - len(found)
            page, length = self._document("GET", _with_query(path, limit=left, cursor=cursor, **query))
            size += length
            if not isinstance(page.get(key), list) or size > _LARGEST_LIST:
                break
            found += page[key]
            cursor = page.get("next_cursor")
            if cursor is None or (limit is not None and len(found) >= limit):
                return {**page, key: found}
        raise DaemonUnreachableError(f"{self._path} sent a list of {path} that agentcron does not send; {FIX}")

    def ask(self, method: str, path: str, body: object = None, **headers: str) -> dict[str, Any]:
        """Send a request and return the JSON response."""
        return self._document(method, path, body, **headers)[0]

    def _document(self, method: str, path: str, body: object = None, **headers: str) -> tuple[dict[str, Any], int]:
        """Send a request; return the JSON response and its bytes."""
        data = None if body is None else _encoded(body)
        if data is not None:
            headers["Content-Type"] = "application/json"
        if method != "GET":
            self._require_answer()
        return self._received(path, self._send(method, path, data, headers, self._timeout)[0])

    def _received(self, path: str, response: http.client.HTTPResponse) -> tuple[dict[str, Any], int]:
        """Return the JSON document of a response, and its bytes."""
        content = bytearray()
        for part in self._parts(response):
            content += part
            if len(content) > _LARGEST_DOCUMENT:
                raise DaemonUnreachableError(f"{self._path} sent a response of over {_LARGEST_DOCUMENT} bytes; {FIX}")
        try:
            document = json.loads(content or b"{}")
        except (ValueError, RecursionError):
            document = None
        if not isinstance(document, dict):
            raise DaemonUnreachableError(f"{self._path} sent a response to {path} that is not a JSON object; {FIX}")
        return document, len(content)

    def _require_answer(self) -> None:
        """Raise DaemonUnreachableError soon if the daemon hangs: what changes something may rightly take long."""
        try:
            self._received("/healthz", self._send("GET", "/healthz", None, {}, min(self._timeout, _HANGS_AFTER))[0])
        except DaemonUnreachableError as error:
            if "timed out" not in str(error):
                raise
            raise DaemonUnreachableError(
                f"the daemon at {self._path} does not respond, and nothing was changed; see its log, or restart it"
            ) from None

    def stream(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of a response as they arrive, without a timeout once it has begun."""
        response, stream = self._send("GET", path, None, {}, self._timeout)
        stream.lift_limits()
        yield from self._parts(response)

    def _parts(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            with contextlib.closing(response):
                while chunk := response.read1(_CHUNK):
                    yield chunk
        except TimeoutError:
            raise DaemonUnreachableError(
                f"{self._path} sent a part of its response, and the rest timed out; {FIX}"
            ) from None
        except OverlongResponseError as error:
            raise DaemonUnreachableError(f"cannot use the daemon at {self._path}: {error}; {FIX}") from None
        except (OSError, http.client.HTTPException):
            raise DaemonUnreachableError("the daemon stopped before it responded; running agents continue") from None

    def _send(
        self, method: str, path: str, data: bytes | None, headers: dict[str, str], timeout: float
    ) -> tuple[http.client.HTTPResponse, BoundedSocket]:
        """Send a request; return the response, of which the head has come, and the socket that it is read from."""
        connection = Connection(self._path, timeout)
        try:
            connection.request(method, path, body=data, headers=headers)
            stream = connection.stream
            response = connection.getresponse()
        except PermissionError:
            raise DaemonUnreachableError(
                f"permission denied: {self._path}; ask an administrator to add you to its group (control.group)"
            ) from None
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise DaemonUnreachableError(
                f"cannot reach the daemon at {self._path}: {reason}; start it, or check its log"
            ) from None
        if response.status >= http.HTTPStatus.BAD_REQUEST:
            raise _refusal(response)
        return response, stream


def _encoded(body: object) -> bytes:
    """Return the body of a request; raise InvalidError for one that the daemon would refuse unread."""
    data = json.dumps(body, ensure_ascii=False).encode(errors="surrogatepass")  # the daemon says what is not UTF-8
    if len(data) > LARGEST_BODY:
        raise InvalidError(
            f"the request takes {len(data)} bytes as JSON, and 1 MiB is the limit; shorten its input, or put what is "
            "large into a file that the agent reads"
        )
    return data


def _with_query(path: str, **query: object) -> str:
    """Return a path with a query of the values that are not None."""
    given = {name: value for name, value in query.items() if value is not None}
    return f"{path}?{urlencode(given)}" if given else path


def _verified_socket(folder: Path) -> Path | None:
    """Return the socket named in a state directory's lock file, if the process holding the lock listens on it.

    A socket outlives the process that made it while another holds it, so a pid alone does not say who listens.
    """
    in_use = socket_in_use(folder)
    if in_use is None:
        return None
    path, holder = in_use
    connection = Connection(path, _SHORT_TIMEOUT)
    try:
        with contextlib.closing(connection):
            connection.connect()
            with SocketPeer(connection.sock) as listening:
                holds = listening.pid == holder and listening.is_alive()
    except OSError:
        return None
    return path if holds else None


def is_responding(config: Config) -> bool:
    """Tell whether the daemon responds within 3 seconds."""
    try:
        Client(config, _SHORT_TIMEOUT).get("/healthz")
    except AgentcronError:
        return False
    return True


def daemon_at(config: Config, path: Path | None = None) -> dict[str, Any] | None:
    """Return how the daemon of a config, or at a socket, describes itself; None if none responds or it cannot."""
    try:
        daemon = Client(config, _SHORT_TIMEOUT, path).get("/daemon")
    except (AgentcronError, ValueError):
        return None
    texts = (daemon.get(key) for key in ("config_file", "state_dir", "timezone"))
    is_one = "amiss" in daemon and isinstance(daemon.get("pid"), int)
    return daemon if is_one and all(isinstance(text, str) and "\0" not in text for text in texts) else None


def schedule_path(agent: str, name: str, subresource: str = "") -> str:
    """Return the API path of a schedule, or of one of its subresources."""
    return f"/agents/{quote(agent)}/schedules/{quote(name)}" + (f"/{subresource}" if subresource else "")


_OPTIONS = {field.api: field.option.partition("/")[0] for field in FIELDS if field.help} | {"Idempotency-Key": "--key"}
"""What the command line calls the fields of the API."""
_WORDS = [name for name in _OPTIONS if not name.isalpha()]
"""Those whose names are no everyday words, so that they are known wherever they stand in a message."""
_FIELD = re.compile(r"'[^']*'|\"[^\"]*\"|(?<![\w.])(" + "|".join(map(re.escape, _WORDS)) + r")(?![\w.])")
"""A field in a message of the API; what is in quotes is somebody's value."""
_SUBJECT = re.compile(r"([a-z_.]+)(?=: )")
"""What a message of the API is about."""
_KEY = re.compile(r"[a-z]+(?:_[a-z]+)*")


def _refusal(response: http.client.HTTPResponse) -> Exception:
    try:
        body = json.loads(response.read(_LARGEST_DOCUMENT))
        if body["code"] == "config":
            return ConfigError(body["data"]["problems"])
        fields = [_in_terms_of_options(field["field"], field["problem"]) for field in body["data"].get("fields", [])]
        text = "; ".join(fields or [_message(body["message"])])
    except (OSError, http.client.HTTPException, ValueError, LookupError, TypeError, AttributeError, RecursionError):
        text = f"the daemon returned {response.status} {response.reason}"
    return _ERRORS.get(response.status, RefusedError)(text)


def option_of(field: str) -> str:
    """Return the option that sets a field of the API: by the table, or its own name without the unit."""
    if field in _OPTIONS or not _KEY.fullmatch(field):
        return _OPTIONS.get(field, field)
    return f"--{field.removesuffix(DURATION.api_suffix).replace('_', '-')}"


def _message(text: str) -> str:
    """Return a message of the API, worded with the options of the command line."""
    subject = _SUBJECT.match(text)
    if subject and subject[1] in _OPTIONS:
        return _OPTIONS[subject[1]] + _FIELD.sub(_named, text[subject.end() :])
    return _FIELD.sub(_named, text)


def _in_terms_of_options(field: str, problem: str) -> str:
    """Return a problem with a field of the API, worded with the options of the command line."""
    text = _FIELD.sub(_named, problem).replace("Input should", "should")  # pydantic's "input" is our option
    return text if field == "body" else f"{option_of(field)}: {text}"


def _named(field: re.Match[str]) -> str:
    return field[0] if field[1] is None else _OPTIONS[field[1]]
