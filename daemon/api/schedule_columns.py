"""Turn a request's keys of a schedule into the columns of its row, and check what they mean."""

import json
from collections.abc import Callable
from datetime import datetime
from operator import attrgetter
from typing import Any

from pydantic import BaseModel

from daemon.api.requests import DEFAULTS, Input
from daemon.config.schema import BaseAgent, RemoteAgent
from daemon.errors import InvalidError
from daemon.model import SessionPolicy
from daemon.rules.cadence import check_cron, check_zone
from daemon.rules.run_metadata import OF_A_SCHEDULE
from daemon.rules.schedule_fields import FIELDS, ScheduleField
from daemon.units import format_instant, parse_instant


def new_columns(body: BaseModel, timezone: str) -> dict[str, Any]:
    """Return the columns of a new schedule; `timezone` is the default zone. Raise InvalidError for an invalid value."""
    derived = {field.column: None for field in FIELDS if field.derived}
    return {**DEFAULTS, **derived, "timezone": timezone, **changed_columns(body)}


def changed_columns(body: BaseModel) -> dict[str, Any]:
    """Return the columns that a request sets; raise InvalidError for an invalid value."""
    columns = {field.column: _column_value(field, body) for field in FIELDS if field.api_key in body.model_fields_set}
    if columns.get("cron") is not None:
        columns = {"offset_ms": 0, **columns, "every_ms": None}
    elif columns.get("every_ms") is not None:
        columns["cron"] = None
    return columns


def check_for_agent(columns: dict[str, Any], agent: BaseAgent | None) -> None:
    """Raise InvalidError for columns of a schedule that its agent cannot obey."""
    if columns.get("session") == SessionPolicy.CONTINUE and isinstance(agent, RemoteAgent):
        raise InvalidError('session: "continue" applies only to agents of type command and acp')


def run_columns(body: BaseModel) -> dict[str, Any]:
    """Return the columns of a run without a schedule; raise InvalidError for an invalid value."""
    of_a_run = {field.column: DEFAULTS[field.column] for field in FIELDS if field.api_key in type(body).model_fields}
    columns = {**of_a_run, **changed_columns(body)}
    forged = sorted(OF_A_SCHEDULE & json.loads(columns["task_metadata"]).keys())
    if forged:
        names = " and ".join(forged)
        raise InvalidError(f"task_metadata: leave out {names}: only runs that a schedule starts have these")
    return columns


def _column_value(field: ScheduleField, body: BaseModel) -> Any:  # noqa: ANN401 - values of every kind
    value = attrgetter(field.api)(body)
    if value is None:
        return None if field.derived else DEFAULTS[field.column]
    try:
        value = _CHECKS.get(field.key, _unchecked)(value)
    except ValueError as error:
        raise InvalidError(f"{field.api}: {value!r}: {error}") from None
    try:
        return field.kind.from_api(value)
    except ValueError as error:
        raise InvalidError(f"{field.api}: {value!r} is {error}") from None


def input_columns(value: Input) -> dict[str, str]:
    """Return the columns of an initial input."""
    return {"input_author": value.author, "input_content": value.content}


def instant(name: str, text: str) -> datetime:
    """Return the instant that a request names; raise InvalidError if there is none."""
    try:
        return parse_instant(text)
    except ValueError as error:
        raise InvalidError(f"{name}: {text!r} is {error}") from None


def text_of(name: str, text: str | None) -> str | None:
    """Return an instant that a request may name as UTC text, as the database has it; raise InvalidError."""
    return None if text is None else format_instant(instant(name, text))


def _unchecked(value: Any) -> Any:  # noqa: ANN401 - values of every kind
    return value


def _metadata(value: dict[str, Any]) -> dict[str, Any]:
    if not isinstance(value.get("display_name", ""), str):
        raise InvalidError("task_metadata: display_name should be a string")
    return value


_CHECKS: dict[str, Callable[[Any], Any]] = {
    "cron": check_cron,
    "timezone": lambda text: check_zone(text).key,
    "metadata": _metadata,
}
"""Checks beyond the shape of a request, by the key in the file."""
