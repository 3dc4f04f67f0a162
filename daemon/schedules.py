"""What people do to schedules: here, declaring them in the config file."""

import json
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daemon.config.schema import Config, Schedule
from daemon.errors import ConfigError
from daemon.fires import record_pause, skip_undecided
from daemon.store.database import Transaction
from daemon.store.schedules import (
    CADENCE_KEYS,
    DEFINITION_KEYS,
    ScheduleRow,
    add_revision,
    change_schedule,
    deleted_schedule,
    insert_schedule,
    live_schedules,
    move_cursor,
)
from daemon.units import format_instant

_PRINCIPAL = "config"


@dataclass(frozen=True)
class Declared:
    """What declaring the file's schedules changed, by address."""

    address: str
    action: str
    changed: tuple[str, ...] = ()


def sync_declared(tx: Transaction, config: Config, now: datetime) -> list[Declared]:
    """Make the declared schedules of the database match the file; raise ConfigError if a name is taken."""
    live = {(row.agent, row.name): row for row in live_schedules(tx)}
    wanted = {
        (agent, name): schedule
        for agent, settings in config.agents.items()
        for name, schedule in settings.schedules.items()
    }
    taken = [key for key in wanted if key in live and live[key].source == "created"]
    if taken:
        raise ConfigError([_taken(config, *key) for key in taken])
    done = [_retire(tx, row, now) for key, row in live.items() if row.source == "declared" and key not in wanted]
    for (agent, name), schedule in wanted.items():
        definition = definition_of(schedule, config)
        row = live.get((agent, name))
        change = _declare(tx, agent, name, definition, schedule, row, now)
        if change is not None:
            done.append(change)
    return done


def _taken(config: Config, agent: str, name: str) -> str:
    return (
        f"{config.file}: agents.{agent}.schedules.{name}: a schedule of this name was created through the API or the "
        f"command line; delete that one, or give this one another name"
    )


def _declare(
    tx: Transaction,
    agent: str,
    name: str,
    definition: dict[str, Any],
    schedule: Schedule,
    row: ScheduleRow | None,
    now: datetime,
) -> Declared | None:
    if row is not None:
        return _update(tx, row, definition, schedule, now)
    retired = deleted_schedule(tx, agent, name, declared=True)
    if retired is not None:
        return _revive(tx, retired, definition, schedule, now)
    at = format_instant(now)
    schedule_id = insert_schedule(
        tx,
        f"{agent}/{name}",
        now,
        {
            "agent": agent,
            "name": name,
            "source": "declared",
            **definition,
            **_pause_columns(schedule.paused, now),
            "declared_paused": int(schedule.paused),
            "creator": _PRINCIPAL,
            "created_at": at,
            "updated_at": at,
        },
    )
    add_revision(tx, schedule_id, 1, now, _PRINCIPAL, "create", definition)
    return Declared(f"{agent}/{name}", "created")


def _update(
    tx: Transaction, row: ScheduleRow, definition: dict[str, Any], schedule: Schedule, now: datetime
) -> Declared | None:
    changes = {key: [row.definition[key], value] for key, value in definition.items() if row.definition[key] != value}
    values: dict[str, Any] = {key: definition[key] for key in changes}
    if row.declared_paused != schedule.paused:
        values["declared_paused"] = int(schedule.paused)
        if row.paused != schedule.paused:
            changes["paused"] = [row.paused, schedule.paused]
            values.update(_pause_columns(schedule.paused, now))
    if not values:
        return None
    new_cadence = bool(changes.keys() & {*CADENCE_KEYS})
    resumed = row.paused and values.get("paused") == 0
    if row.paused and (resumed or new_cadence):
        record_pause(tx, row, now)
    elif new_cadence:
        skip_undecided(tx, row, now, "the cadence was changed before this due time was decided")
    changed = change_schedule(tx, row, values, now, principal=_PRINCIPAL, action="update", changes=changes)
    if resumed or new_cadence or "jitter_ms" in changes:
        move_cursor(tx, changed, now if resumed or new_cadence else row.cursor)
    return Declared(row.address, "changed", tuple(sorted(changes)))


def _revive(
    tx: Transaction, row: ScheduleRow, definition: dict[str, Any], schedule: Schedule, now: datetime
) -> Declared:
    """Bring a retired schedule back with its history; its due times start from now."""
    values = {
        **definition,
        **_pause_columns(schedule.paused, now),
        "declared_paused": int(schedule.paused),
        "deleted_at": None,
    }
    changed = change_schedule(tx, row, values, now, principal=_PRINCIPAL, action="revive")
    move_cursor(tx, changed, now)
    return Declared(row.address, "revived")


def _retire(tx: Transaction, row: ScheduleRow, now: datetime) -> Declared:
    if row.paused:
        record_pause(tx, row, now)
    else:
        skip_undecided(tx, row, now, "the schedule was taken out of the file before this due time was decided")
    change_schedule(tx, row, {"deleted_at": format_instant(now)}, now, principal=_PRINCIPAL, action="retire")
    return Declared(row.address, "retired")


def _pause_columns(paused: bool, now: datetime) -> dict[str, Any]:  # noqa: FBT001 - the column's own value
    at = format_instant(now) if paused else None
    note = "paused in the config file" if paused else None
    return {"paused": int(paused), "paused_at": at, "pause_note": note}


def definition_of(schedule: Schedule, config: Config) -> dict[str, Any]:
    """Return the columns that a schedule of the file fills."""
    columns = {
        "description": schedule.description,
        "cron": schedule.cron,
        "every_ms": _milliseconds(schedule.every) if schedule.every else None,
        "offset_ms": _milliseconds(schedule.offset),
        "timezone": schedule.timezone or config.daemon.timezone,
        "start_at": format_instant(schedule.start_at) if schedule.start_at else None,
        "end_at": format_instant(schedule.end_at) if schedule.end_at else None,
        "jitter_ms": _milliseconds(schedule.jitter),
        "overlap": str(schedule.overlap),
        "catchup": str(schedule.catchup),
        "catchup_window_ms": _milliseconds(schedule.catchup_window),
        "pause_on_failure": int(schedule.pause_on_failure),
        "input_author": schedule.input.author,
        "input_content": schedule.input.content,
        "task_params": json.dumps(schedule.params, default=str),
        "task_metadata": json.dumps(schedule.metadata, default=str),
    }
    return {key: columns[key] for key in DEFINITION_KEYS}


def _milliseconds(length: timedelta) -> int:
    return length // timedelta(milliseconds=1)
