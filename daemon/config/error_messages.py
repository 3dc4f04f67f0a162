"""Describe each error of a config in one line: file, line, key, value and what is allowed."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError
from pydantic_core import ErrorDetails

from daemon.config.key_lines import KeyPath, key_lines
from daemon.config.overrides import variable_name
from daemon.config.schema import (
    A2aAgent,
    Access,
    AcpAgent,
    AgentBudget,
    AgentexAgent,
    AgentRetention,
    Budget,
    Cleanup,
    CommandAgent,
    Config,
    Control,
    Daemon,
    Environment,
    Expect,
    InitialInput,
    Log,
    McpServer,
    Notify,
    PermissionRule,
    Retention,
    Schedule,
    Token,
)

_AGENT_MODELS: dict[str, type[BaseModel]] = {
    "command": CommandAgent,
    "agentex": AgentexAgent,
    "a2a": A2aAgent,
    "acp": AcpAgent,
}
_TABLES: dict[tuple[str, ...], type[BaseModel]] = {
    (): Config,
    ("daemon",): Daemon,
    ("log",): Log,
    ("control",): Control,
    ("control", "tokens", "*"): Token,
    ("access",): Access,
    ("retention",): Retention,
    ("cleanup",): Cleanup,
    ("budget",): Budget,
    ("environments", "*"): Environment,
    ("agents", "*", "schedules", "*"): Schedule,
    ("agents", "*", "schedules", "*", "input"): InitialInput,
    ("agents", "*", "budget"): AgentBudget,
    ("agents", "*", "expect"): Expect,
    ("agents", "*", "retention"): AgentRetention,
    ("agents", "*", "mcp_servers", "*"): McpServer,
    ("agents", "*", "permissions", "*"): PermissionRule,
    ("notify", "*"): Notify,
}
_IN_TOML = {
    "dict_type": "should be a table",
    "model_type": "should be a table",
    "model_attributes_type": "should be a table",
    "list_type": "should be an array",
    "string_type": "should be a string",
    "bool_type": "should be true or false",
    "int_type": "should be an integer",
    "float_type": "should be a number",
}
_LONGEST_VALUE = 60
_MOST_ERRORS = 1000
_SECRET_KEYS = frozenset(
    {"env", "headers", "api_key", "tokens", "url", "ping", "repository"}
)  # URLs may hold passwords
_SECRET_WORDS = ("key", "token", "secret", "password", "credential", "auth")


class ErrorMessages:
    """Describes the errors of one document for people."""

    def __init__(self, file: Path, text: str, raw: dict[str, Any], overridden: Iterable[tuple[str, str]] = ()) -> None:
        self._file = file
        self._raw = raw
        self._overridden = set(overridden)
        self._text = text
        self._lines: dict[KeyPath, int] = {}

    def describe(self, error: ValidationError | None, findings: Iterable[tuple[KeyPath, str]]) -> list[str]:
        """Return a line for each error of the schema and each broken rule, in the order of the file.

        Of more than 1000 of either, the rest are counted in one line.
        """
        count = 0 if error is None else error.error_count()
        details = [] if error is None else error.errors(include_url=False, include_input=False)[:_MOST_ERRORS]
        broken = list(findings)
        left = max(0, count - _MOST_ERRORS) + max(0, len(broken) - _MOST_ERRORS)
        del broken[_MOST_ERRORS:]
        paths = [*(self._path(one["loc"]) for one in details), *(path for path, _ in broken)]
        self._lines = key_lines(self._text, [found for path in paths for found in (path, (*path, "type"))])
        lines = [self._from_pydantic(one) for one in details]
        lines += [(self._line_of(path), self._message(path, message)) for path, message in broken]
        more = [f"{self._file}: has {left} more errors, which are not listed; correct these first"] if left else []
        return [text for _, text in sorted(lines)] + more

    def _message(self, path: KeyPath, message: str, *, show_value: bool = True) -> str:
        """Return one error with its place, its key and, unless it may be secret, its value."""
        if len(path) > 1 and (str(path[0]), str(path[1])) in self._overridden:
            place = f"environment variable {variable_name(str(path[0]), str(path[1]))}"
        else:
            place = f"{self._file}:{self._line_of(path)}: {_dotted(path)}"
        value = self._value(path)
        shown = f" = {_shown(value)}" if show_value and value is not _MISSING else ""
        if shown and _may_be_secret(path):
            shown = " = (hidden)"
        return f"{place}{shown}: {message}"

    def _from_pydantic(self, details: ErrorDetails) -> tuple[int, str]:
        path, message, show_value = self._path(details["loc"]), _in_toml_words(details), True
        kind = details["type"]
        if kind == "extra_forbidden":
            message = _unknown_key(path, self._raw)
        elif kind == "missing":
            path, message, show_value = path[:-1], f"the key {path[-1]} is missing", False
        elif kind in {"union_tag_invalid", "union_tag_not_found"}:
            allowed = ", ".join(f'"{name}"' for name in _AGENT_MODELS)
            path, message = (*path, "type"), f"unknown agent type; allowed are {allowed}"
        return self._line_of(path), self._message(path, message, show_value=show_value)

    def _path(self, loc: tuple[int | str, ...]) -> KeyPath:
        """Return pydantic's location without the tag it adds for the type of an agent and its mark for a key."""
        path = tuple(part for part in loc if part != "[key]")
        if path[0] == "agents" and len(path) > 2:  # noqa: PLR2004 - ("agents", NAME, tag, ...)
            path = (*path[:2], *path[3:])
        return path

    def _line_of(self, path: KeyPath) -> int:
        while path:
            if path in self._lines:
                return self._lines[path]
            path = path[:-1]
        return 1

    def _value(self, path: KeyPath) -> object:
        value: Any = self._raw
        for part in path:
            try:
                value = value[part]
            except (KeyError, IndexError, TypeError):
                return _MISSING
        return value


_MISSING = object()


def _dotted(path: KeyPath) -> str:
    text = ""
    for part in path:
        text += f"[{part}]" if isinstance(part, int) else f".{part}"
    return _shortened(text.removeprefix("."), 200)


def _may_be_secret(path: KeyPath) -> bool:
    last = str(path[-1]).lower()
    return bool(_SECRET_KEYS & set(map(str, path))) or any(word in last for word in _SECRET_WORDS)


def _shown(value: object) -> str:
    if isinstance(value, int) and value.bit_length() > 64:  # noqa: PLR2004 - more than TOML promises
        return "an integer of more than 64 bits"
    if isinstance(value, dict):
        return "{...}"
    if isinstance(value, bool):
        return str(value).lower()
    return _shortened(f'"{value}"' if isinstance(value, str) else str(value), _LONGEST_VALUE)


def _shortened(text: str, most: int) -> str:
    printable = "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
    return printable if len(printable) <= most else f"{printable[:most]}... ({len(text)} characters)"


def _in_toml_words(details: ErrorDetails) -> str:
    """Describe what is allowed in TOML's terms instead of Python's."""
    context = details.get("ctx", {})
    if details["type"] == "value_error":
        return str(context["error"])
    if details["type"] == "too_short":
        return "is empty; add at least one item"
    message = _IN_TOML.get(details["type"], details["msg"])
    return message.replace("Input should be", "should be").replace("String should", "should")


def _unknown_key(path: KeyPath, raw: dict[str, Any]) -> str:
    import difflib  # noqa: PLC0415 - a config without misspelt keys does not need it

    known = sorted(_keys_beside(path, raw))
    near = difflib.get_close_matches(str(path[-1])[:100], known, 1)
    guess = f"did you mean {near[0]}? " if near else ""
    return f"unknown key; {guess}allowed are {', '.join(known)}"


def _keys_beside(path: KeyPath, raw: dict[str, Any]) -> Iterable[str]:
    """Return the keys that the schema allows in the table that holds a path."""
    where = path[:-1]
    for pattern, model in _TABLES.items():
        if len(pattern) == len(where) and all(mine in {"*", part} for mine, part in zip(pattern, where, strict=True)):
            return model.model_fields
    if len(where) == 2 and where[0] == "agents":  # noqa: PLR2004 - ("agents", NAME)
        kind = raw["agents"][where[1]].get("type", "command")
        return _AGENT_MODELS[kind].model_fields if kind in _AGENT_MODELS else ()
    return ()
