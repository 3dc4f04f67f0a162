"""Take values out of JSON that may have any shape, and was parsed as ASCII with other bytes as surrogates (PEP 383)."""

import json
import re
from collections.abc import Iterable
from typing import Any

LONGEST_TEXT = 256 * 1024 + 1
"""Characters, or bytes of characters that are no ASCII."""
_LONE_HALVES = re.compile("[\ud800-\udc7f\udd00-\udfff]")  # of characters in UTF-16; the others stand for bytes
_LONGEST_NESTED = 64 * 1024  # characters of a text that is itself JSON
_LARGEST = 2**63 - 1
_NO_COUNT = -1
"""Stands for a value that is no count: whoever stores it will refuse it and say so."""
_LONGEST_INPUT = 160  # characters of a tool's input
_TELLING = ("command", "file_path", "filePath", "path", "url", "pattern", "query", "description")
"""The parts of a tool's input that tell best what it was to do, in this order."""


def text_in(content: dict[str, Any], key: str) -> str:
    """Return a text, cut if it is very long; an empty one if there is none."""
    value = content.get(key)
    return readable(value) if isinstance(value, str) else ""


def readable(text: str) -> str:
    """Return a text with its bytes decoded as UTF-8, cut if it is very long; what cannot be decoded is replaced."""
    if text.isascii():
        return text[:LONGEST_TEXT]
    known = _LONE_HALVES.sub("\ufffd", text[:LONGEST_TEXT])
    return known.encode("utf-8", "surrogateescape").decode("utf-8", "replace")


def object_in(content: dict[str, Any], key: str) -> dict[str, Any]:
    """Return an object, an empty one if there is none."""
    value = content.get(key)
    return value if isinstance(value, dict) else {}


def list_in(content: dict[str, Any], key: str) -> list[Any]:
    """Return a list, an empty one if there is none."""
    value = content.get(key)
    return value if isinstance(value, list) else []


def objects_in(content: dict[str, Any], key: str) -> list[dict[str, Any]]:
    """Return the objects in a list."""
    return [one for one in list_in(content, key) if isinstance(one, dict)]


def json_in(text: str) -> dict[str, Any]:
    """Return the object that a text is, such as an answer of a provider in an error; an empty one if it is none."""
    if not text.startswith("{") or len(text) > _LONGEST_NESTED:
        return {}
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def status_in(content: dict[str, Any], key: str) -> int | None:
    """Return an HTTP status, None if there is none."""
    value = content.get(key)
    return value if type(value) is int and 100 <= value <= 599 else None  # noqa: PLR2004 - as HTTP has them


def count_in(content: dict[str, Any], key: str) -> int | None:
    """Return a small number, None if there is none."""
    value = content.get(key)
    return value if type(value) is int and 0 <= value <= _LARGEST else None


def total(values: Iterable[object]) -> int | None:
    """Return the sum of the counts that are there, None without any; -1 if one of them is no count."""
    found = [_count(value) for value in values if value is not None]
    if not found:
        return None
    return sum(found) if min(found) >= 0 else _NO_COUNT


def amount(value: object) -> float | None:
    """Return an amount of money, None if there is none; -1 if it is no such number."""
    return None if value is None else _number(value)


def sum_of_amounts(values: Iterable[float | None]) -> float | None:
    """Return the sum of the amounts that are there, None without any; -1 if one of them is no amount."""
    found = [value for value in values if value is not None]
    if not found:
        return None
    return sum(found) if min(found) >= 0 else _NO_COUNT


def _count(value: object) -> int:
    number = _number(value)
    return int(number) if number % 1 == 0 else _NO_COUNT


def _number(value: object) -> float:
    """Return a number that can be added up, -1 for anything else."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool)
    return value if is_number and 0 <= value <= _LARGEST else _NO_COUNT  # type: ignore[operator, return-value]


def tool_call(name: str, given: object) -> str:
    """Return a call of a tool as people read it: `Bash(echo hi)`."""
    if isinstance(given, dict):
        told = [given[key] for key in _TELLING if isinstance(given.get(key), str)]
        given = told[0] if told else json.dumps(given, ensure_ascii=False) if given else ""
    shown = readable(given) if isinstance(given, str) else ""
    short = shown if len(shown) <= _LONGEST_INPUT else f"{shown[:_LONGEST_INPUT]}..."
    return f"{name or 'a tool'}({short})" if short else name or "a tool"
