"""From a request's keys of a schedule to the columns of its row, and the check of what they mean."""

import json
from collections.abc import Callable, Iterable
from datetime import datetime
from typing import Any

from daemon.api.requests import Input, ScheduleChange
from daemon.errors import InvalidError
from daemon.rules.cadence import check_cron, check_zone
from daemon.store.schedules import DEFINITION_KEYS
from daemon.units import format_instant, parse_instant


def new_definition(asked: ScheduleChange, timezone: str) -> dict[str, Any]:
    """Return all columns of a new schedule; `timezone` is the default zone. Raise InvalidError for a bad meaning."""
    columns = _all_columns(asked, ScheduleChange.model_fields)
    if "timezone" not in asked.model_fields_set:
        columns["timezone"] = timezone
    return {key: columns[key] for key in DEFINITION_KEYS}


def changed_columns(asked: ScheduleChange) -> dict[str, Any]:
    """Return the columns that a request sets, `paused` included; raise InvalidError for a bad meaning."""
    return _all_columns(asked, asked.model_fields_set & ScheduleChange.model_fields.keys())


def _all_columns(asked: ScheduleChange, names: Iterable[str]) -> dict[str, Any]:
    columns: dict[str, Any] = {}
    for name in names:
        columns |= _columns(name, getattr(asked, name))
    if columns.get("cron") is not None:
        columns = {"offset_ms": 0, **columns, "every_ms": None}
    elif columns.get("every_ms") is not None:
        columns["cron"] = None
    return columns


def input_columns(value: Input) -> dict[str, str]:
    """Return the columns of an initial input."""
    return {"input_author": value.author, "input_content": value.content}


def instant(name: str, text: str) -> datetime:
    """Return the instant that a request names; raise InvalidError if there is none."""
    try:
        return parse_instant(text)
    except ValueError as error:
        raise InvalidError(f"{name}: {text!r} is {error}") from None


def _columns(name: str, value: Any) -> dict[str, Any]:  # noqa: ANN401 - values of every key
    if name == "initial_input":
        return input_columns(value)
    column, convert = _COLUMNS[name]
    return {column: None if value is None and name in _NULL_STAYS else convert(value)}


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("display_name", ""), str):
        raise InvalidError("task_metadata: display_name should be a string")
    return value


def _milliseconds(seconds: int) -> int:
    return seconds * 1000


def _checked(name: str, value: str, check: Callable[[str], str]) -> str:
    try:
        return check(value)
    except ValueError as error:
        raise InvalidError(f"{name}: {value!r}: {error}") from None


_NULL_STAYS = {"cron_expression", "interval_seconds", "start_at", "end_at"}
_COLUMNS: dict[str, tuple[str, Callable[[Any], Any]]] = {
    "description": ("description", lambda value: value or ""),
    "cron_expression": ("cron", lambda value: _checked("cron_expression", value, check_cron)),
    "interval_seconds": ("every_ms", _milliseconds),
    "offset_seconds": ("offset_ms", _milliseconds),
    "timezone": ("timezone", lambda value: _checked("timezone", value, lambda text: check_zone(text).key)),
    "start_at": ("start_at", lambda value: format_instant(instant("start_at", value))),
    "end_at": ("end_at", lambda value: format_instant(instant("end_at", value))),
    "paused": ("paused", int),
    "task_params": ("task_params", lambda value: json.dumps(value or {})),
    "task_metadata": ("task_metadata", lambda value: json.dumps(_metadata(value or {}))),
    "overlap_policy": ("overlap", str),
    "catchup": ("catchup", str),
    "catchup_window_seconds": ("catchup_window_ms", _milliseconds),
    "jitter_seconds": ("jitter_ms", _milliseconds),
    "pause_on_failure": ("pause_on_failure", int),
}
