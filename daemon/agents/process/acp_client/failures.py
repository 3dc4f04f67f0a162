"""Why a session failed, in words that say what to do, and of which kind the failure is."""

import shlex
from collections.abc import Iterator
from typing import Any

from ..supervisor.untrusted_json import objects_in

AUTH, CONFIG, REFUSED, CRASHED, QUOTA, OVERLOADED = "auth", "config", "refused", "crashed", "quota", "overloaded"
"""The kinds of failures that the client recognizes, as the daemon calls them."""
METHOD_NOT_FOUND = -32601
_AUTH_REQUIRED = -32000
_MOST_METHODS = 8  # ways to log in that are named
_DETAILS = ("message", "details", "error")  # where agents put the cause into `data`
_BY_NAME = {
    "unauthorized": AUTH,
    "usage_limit_exceeded": QUOTA,
    "rate_limit_exceeded": QUOTA,
    "server_overloaded": OVERLOADED,
}
"""Kinds by the `codex_error_info` in the data of an error of codex-acp."""


class SessionError(Exception):
    """The session cannot go on; the text says why."""

    def __init__(self, text: str, kind: str | None = None, code: object = None) -> None:
        """Take the reason, its kind if it is known, and the code of the error that the agent answered, if any."""
        super().__init__(text)
        self.kind = kind
        self.code = code


def error_of(method: str, error: dict[str, Any], auth_methods: object, command: list[str]) -> SessionError:
    """Return the failure that an agent's answer to a request stands for."""
    code = error.get("code")
    text = f"the agent failed at {method}: {error.get('message')} ({code})"
    data = error.get("data")
    cause = _cause(data)
    if cause and cause not in text:
        text += f": {cause}"
    if code != _AUTH_REQUIRED:
        name = data.get("codex_error_info") if isinstance(data, dict) else None
        return SessionError(text, _BY_NAME.get(name) if isinstance(name, str) else None, code)
    ways = " or ".join(_ways(auth_methods, command)) or "log it in once by hand"
    return SessionError(f"{text}; {ways}", AUTH, code)


def _cause(data: object) -> str:
    """Return the text in the data of an error, which may be nested once; empty without any."""
    if isinstance(data, str):
        return data
    if not isinstance(data, dict):
        return ""
    for name in _DETAILS:
        value = data.get(name)
        value = value.get("message") if isinstance(value, dict) else value
        if isinstance(value, str) and value:
            return value
    return ""


def _ways(methods: object, command: list[str]) -> Iterator[str]:
    """Yield the ways to log in that an agent offered when it was asked for its abilities."""
    for method in objects_in(methods)[:_MOST_METHODS]:
        way = _way(method, command)
        if way:
            yield way


def _way(method: dict[str, Any], command: list[str]) -> str:
    name = method.get("name") or method.get("id")
    variables = [entry.get("name") for entry in objects_in(method.get("vars")) if entry.get("optional") is not True]
    if method.get("type") == "env_var" and variables:
        return f"set {' and '.join(map(str, variables))} in env"
    if method.get("type") == "terminal":
        arguments = method.get("args")
        words = [*command, *(map(str, arguments) if isinstance(arguments, list) else ())]
        return f"run `{shlex.join(words)}` once by hand"
    about = f" ({method['description']})" if isinstance(method.get("description"), str) else ""
    return f'log it in once by hand with "{name}"{about}' if name else ""
