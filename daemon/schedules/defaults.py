"""The defaults of a schedule's fields that depend on its other fields."""

import contextlib
from datetime import timedelta
from typing import Any

from daemon.config.schema import Schedule
from daemon.rules.catchup import default_window
from daemon.rules.schedule_fields import DEFINITION
from daemon.store.schedules import CADENCE_KEYS, UNDECIDABLE, cadence_from

DERIVED = tuple(entry for entry in DEFINITION if entry.derived)
"""The fields with such a default: how old a missed due time may be."""
_WINDOW = "catchup_window_ms"
_LEAST: timedelta = Schedule.model_fields["catchup_window"].default


def with_defaults(definition: dict[str, Any]) -> dict[str, Any]:
    """Return the columns of a schedule with a value for each field that has none and whose default depends on others.

    Raise ValueError for a cadence that has no meaning.
    """
    return {**definition, _WINDOW: _window(definition)} if definition[_WINDOW] is None else definition


def follow_cadence(before: dict[str, Any], values: dict[str, Any]) -> dict[str, Any]:
    """Return changed columns of a schedule, with new defaults if the cadence changes and the defaults were in force."""
    if _WINDOW in values or not values.keys() & {*CADENCE_KEYS}:
        return values
    with contextlib.suppress(*UNDECIDABLE):  # the row is damaged, and this may repair it
        if before[_WINDOW] == _window(before):
            return {**values, _WINDOW: None}
    return values


def _window(definition: dict[str, Any]) -> int:
    has_cadence = definition["cron"] is not None or definition["every_ms"] is not None
    window = default_window(_LEAST, cadence_from(definition)) if has_cadence else _LEAST
    return window // timedelta(milliseconds=1)
