"""The lines of JSON between the daemon and its helper process, made from dataclasses and checked against them.

A job is `{"job": CLASS, "request": {...}}`. Replies are any number of `{"log": TEXT}` and
`{"waits_for": TEXT}`, then one `{"result": ...}` or `{"error": TEXT}`. Field names and types are read from the
dataclasses, so they are written down once, in `jobs.py`. Standard library only: the helper process imports this.
"""

import json
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, TypeVar, get_args, get_origin, get_type_hints

from daemon.workspaces.jobs import Job

T = TypeVar("T")
LARGEST = 2**63 - 1
"""The largest number in a message: what a column of the database holds."""
_LONGEST_NUMBER = len(str(LARGEST))
_JOBS: Mapping[str, type[Job]] = {kind.__name__: kind for kind in get_args(Job)}


class MessageError(Exception):
    """A line is not what its reader expects; the text says where and why."""


def bounded(number: int | None) -> int | None:
    """Return a number of the config as a message can hold it; None stays None."""
    return None if number is None else min(number, LARGEST)


def encode_job(job: Job) -> bytes:
    """Return a job as one line."""
    return _line({"job": type(job).__name__, "request": asdict(job)})


def decode_job(line: bytes) -> Job:
    """Return the job that a line holds; raise MessageError."""
    match _object_in(line):
        case {"job": str(name), "request": request} if name in _JOBS:
            return decode(_JOBS[name], request)
        case message:
            raise MessageError(f"unknown job: {_shortened(message)}")


@dataclass(frozen=True)
class Log:
    """A log message from a job that is not done yet."""

    text: str


@dataclass(frozen=True)
class Waiting:
    """What a job that is not done yet waits for from now on."""

    what: str


@dataclass(frozen=True)
class Failure:
    """The reason why a job failed."""

    reason: str


@dataclass(frozen=True)
class Success:
    """The result of a job: parsed JSON, not checked yet."""

    result: object


def decode_reply(line: bytes) -> Log | Waiting | Failure | Success:
    """Return the reply that a line holds; raise MessageError."""
    match _object_in(line):
        case {"log": str(text)}:
            return Log(text)
        case {"waits_for": str(what)}:
            return Waiting(what)
        case {"error": str(reason)}:
            return Failure(reason)
        case {"result": result}:
            return Success(result)
        case message:
            raise MessageError(f"unknown reply: {_shortened(message)}")


def encode_log(text: str) -> bytes:
    """Return a log message as one line."""
    return _line({"log": text})


def encode_waiting(what: str) -> bytes:
    """Return what a job waits for from now on as one line."""
    return _line({"waits_for": what})


def encode_error(text: str) -> bytes:
    """Return the reason why a job failed as one line."""
    return _line({"error": text})


def encode_result(result: object) -> bytes:
    """Return the result of a job, a dataclass or None, as one line."""
    return _line({"result": asdict(result) if is_dataclass(result) and not isinstance(result, type) else result})


def _object_in(line: bytes) -> dict[str, Any]:
    """Return the JSON object that a line holds; raise MessageError."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise MessageError(f"not JSON ({error}): {_shortened(line)}") from None
    if not isinstance(message, dict):
        raise MessageError(f"not a JSON object: {_shortened(message)}")
    return message


def decode(kind: type[T], data: object) -> T:
    """Return parsed JSON as a dataclass, or None for NoneType; raise MessageError if a field is missing or wrong."""
    value: T = _decode(kind, data, kind.__name__)
    return value


def _decode(kind: Any, data: object, where: str) -> Any:  # noqa: ANN401 - a type at run time, and a value of it
    if is_dataclass(kind):
        return _decode_fields(kind, data, where)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is UnionType:  # of one type and None
        return None if data is None else _decode(arguments[0], data, where)
    if origin is tuple:
        items = _checked(list, data, where)
        return tuple(_decode(arguments[0], item, f"{where}[{number}]") for number, item in enumerate(items))
    if origin is dict:
        key_kind, item_kind = arguments
        entries = _checked(dict, data, where).items()
        return {_key(key_kind, key, where): _decode(item_kind, item, f"{where}[{key!r}]") for key, item in entries}
    if not _SCALARS[kind](data):
        raise MessageError(f"{where} is not a valid {kind.__name__}: {_shortened(data)}")
    return kind(data) if data is not None else None


def _decode_fields(kind: Any, data: object, where: str) -> object:  # noqa: ANN401 - a dataclass
    types, given = _types(kind), _checked(dict, data, where)
    if given.keys() != types.keys():
        names = ", ".join(sorted(given.keys() ^ types.keys()))
        raise MessageError(f"{where} has missing or unknown fields: {_shortened(names)}")
    return kind(**{name: _decode(types[name], value, f"{where}.{name}") for name, value in given.items()})


@cache
def _types(kind: Any) -> Mapping[str, Any]:  # noqa: ANN401 - a dataclass
    hints = get_type_hints(kind)
    return {field.name: hints[field.name] for field in fields(kind)}


def _key(kind: type, key: str, where: str) -> object:
    """Return a key of a JSON object, which is always text, as the type that is wanted."""
    if kind is not int:
        return key
    is_number = key.isascii() and key.isdigit() and len(key) <= _LONGEST_NUMBER
    return _decode(int, int(key) if is_number else key, f"key of {where}")


def _checked(kind: type[T], data: object, where: str) -> T:
    if not isinstance(data, kind):
        raise MessageError(f"{where} is not a {kind.__name__}: {_shortened(data)}")
    return data


def _is_count(data: object) -> bool:
    return isinstance(data, int) and not isinstance(data, bool) and 0 <= data <= LARGEST


def _is_duration(data: object) -> bool:
    return _is_count(data) or (isinstance(data, float) and math.isfinite(data) and data >= 0)


_SCALARS: Mapping[type, Callable[[object], bool]] = {
    bool: lambda data: isinstance(data, bool),
    int: _is_count,
    float: _is_duration,
    str: lambda data: isinstance(data, str),
    Path: lambda data: isinstance(data, str) and bool(data) and "\0" not in data,
    NoneType: lambda data: data is None,
}


def _shortened(data: object) -> str:
    text = repr(data)
    return text if len(text) <= 100 else f"{text[:100]}..."  # noqa: PLR2004


def _line(message: Mapping[str, object]) -> bytes:
    return json.dumps(message, default=os.fspath).encode() + b"\n"
