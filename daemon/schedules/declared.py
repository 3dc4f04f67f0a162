"""Applies the schedules declared in the config file to the database, at a start or a reload."""

import sqlite3
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property, partial
from operator import attrgetter
from typing import Any, Literal

from daemon.config.schema import Config, Schedule
from daemon.errors import ConfigError
from daemon.model import CONFIG_PRINCIPAL
from daemon.rules.schedule_fields import BY_COLUMN, DEFINITION
from daemon.schedules.defaults import DERIVED, with_defaults
from daemon.schedules.revision import Revision, pause_columns, redefine, remove
from daemon.store.connection import Transaction, concerns_others
from daemon.store.notifications import forget_agents
from daemon.store.schedules import (
    ScheduleRow,
    add_revision,
    change_schedule,
    insert_schedule,
    live_schedules,
    move_cursor,
    retired_schedules,
)
from daemon.text import plural
from daemon.units import format_instant

_NOTE = "paused in the config file"
_COLUMNS = [(entry.column, attrgetter(entry.attribute), entry.kind.from_file) for entry in DEFINITION]


@dataclass(frozen=True)
class DeclaredChange:
    """What applying the config file changes in one schedule."""

    address: str
    action: Literal["created", "changed", "retired", "revived"]
    changes: dict[str, list[Any]] = field(default_factory=dict)
    """The old and the new value of each changed key, named as in the file."""

    def view(self) -> dict[str, Any]:
        """Return the change as the API and `check --diff` show it."""
        return {"schedule": self.address, "action": self.action, "changes": self.changes}


@dataclass(frozen=True)
class Reloaded:
    """What a reload of the config file changed."""

    schedules: list[DeclaredChange]
    settings: list[str]
    """Key paths of the other settings that changed, without their values, since some are secret."""
    warnings: list[str]


def changed_words(settings: int, schedules: int) -> str:
    """Return how much a reload changed, as people read it."""
    parts = [plural(number, noun) for number, noun in ((settings, "setting"), (schedules, "schedule")) if number]
    return f"{' and '.join(parts) or 'nothing'} changed"


@dataclass(frozen=True)
class _Declaration:
    """A schedule of the file and its counterpart in the database."""

    agent: str
    name: str
    schedule: Schedule
    definition: dict[str, Any]
    live: ScheduleRow | None
    retired: ScheduleRow | None

    @property
    def address(self) -> str:
        """The schedule's name for people: `AGENT/NAME`."""
        return f"{self.agent}/{self.name}"

    @cached_property
    def changes(self) -> dict[str, list[Any]]:
        """The old and the new value of each column that differs."""
        if self.live is None:
            return {}
        before = self.live.definition
        found = {key: [before[key], value] for key, value in self.definition.items() if before[key] != value}
        if self.new_pause and self.live.paused != self.schedule.paused:
            found["paused"] = [self.live.paused, self.schedule.paused]
        return found

    @property
    def new_pause(self) -> bool:
        """Whether `paused` was edited in the file; only then is it applied."""
        return self.live is not None and self.live.declared_paused != self.schedule.paused

    def change(self) -> DeclaredChange | None:
        """Return what applying the schedule changes, None if nothing."""
        if self.live is None:
            return DeclaredChange(self.address, "revived" if self.retired else "created")
        if self.changes or self.new_pause:
            return DeclaredChange(self.address, "changed", _in_file_terms(self.changes))
        return None


def _in_file_terms(changes: dict[str, list[Any]]) -> dict[str, list[Any]]:
    named = ((BY_COLUMN[column], values) for column, values in changes.items())
    return {entry.key: [entry.written(value) for value in values] for entry, values in named}


def declared_changes(source: Transaction | sqlite3.Connection, config: Config) -> list[DeclaredChange]:
    """Return what applying the file's schedules would change; raise ConfigError if a name is taken."""
    declarations, retiring, _ = _compare(source, config)
    changes = [entry.change() for entry in declarations]
    return [*(DeclaredChange(row.address, "retired") for row in retiring), *(change for change in changes if change)]


def sync_declared(tx: Transaction, config: Config, now: datetime) -> tuple[list[DeclaredChange], dict[str, str]]:
    """Make the declared schedules of the database match the file; raise ConfigError if a name is taken.

    Known problems of agents that the file no longer has are forgotten.
    Return the changes, and why other schedules could not be changed; one of these does not affect the others.
    """
    declarations, retiring, failures = _compare(tx, config)
    changes: list[DeclaredChange] = []
    steps = [(row.address, partial(_retire, tx, row, now)) for row in retiring]
    steps += [(entry.address, partial(_apply, tx, entry, now)) for entry in declarations]
    for address, step in steps:
        try:
            change = step() if address not in failures else None
        except Exception as error:
            if concerns_others(error):
                raise
            failures[address] = f"{type(error).__name__}: {error}"
        else:
            changes += [] if change is None else [change]
    forget_agents(tx, config.agents)
    return changes, failures


def _retire(tx: Transaction, row: ScheduleRow, now: datetime) -> DeclaredChange | None:
    with tx.savepoint():
        remove(tx, row, now, Revision(CONFIG_PRINCIPAL, "retire"))
    return DeclaredChange(row.address, "retired")


def _apply(tx: Transaction, entry: _Declaration, now: datetime) -> DeclaredChange | None:
    """Apply a schedule of the file; return what that changes, None if nothing."""
    change = entry.change()
    if change is None:
        return None
    with tx.savepoint():
        if entry.live is not None:
            _update(tx, entry, entry.live, now)
        elif entry.retired is not None:
            _revive(tx, entry.retired, entry.definition, entry.schedule, now)
        else:
            _create(tx, entry, now)
    return change


def _compare(
    source: Transaction | sqlite3.Connection, config: Config
) -> tuple[list[_Declaration], list[ScheduleRow], dict[str, str]]:
    """Return the file's schedules with their counterparts, declared ones that it no longer has, and damaged ones."""
    rows, damaged = live_schedules(source)
    live = {(row.agent, row.name): row for row in rows}
    retired = {(row.agent, row.name): row for row in retired_schedules(source)}
    declarations = [
        _Declaration(
            agent, name, schedule, definition_of(schedule, config), live.get((agent, name)), retired.get((agent, name))
        )
        for agent, settings in config.agents.items()
        for name, schedule in settings.schedules.items()
    ]
    taken = [entry for entry in declarations if entry.live is not None and entry.live.source == "created"]
    if taken:
        raise ConfigError([_taken(config, entry.agent, entry.name) for entry in taken])
    kept = {(entry.agent, entry.name) for entry in declarations}
    retiring = [row for key, row in live.items() if row.source == "declared" and key not in kept]
    return declarations, retiring, damaged


def _taken(config: Config, agent: str, name: str) -> str:
    return (
        f"{config.file}: agents.{agent}.schedules.{name}: a schedule of this name was created through the API or the "
        f"command line; delete that one, or give this one another name"
    )


def _create(tx: Transaction, entry: _Declaration, now: datetime) -> None:
    at = format_instant(now)
    schedule_id = insert_schedule(
        tx,
        f"{entry.agent}/{entry.name}",
        now,
        {
            "agent": entry.agent,
            "name": entry.name,
            "source": "declared",
            **entry.definition,
            **pause_columns(_NOTE if entry.schedule.paused else None, now, paused=entry.schedule.paused),
            "declared_paused": int(entry.schedule.paused),
            "creator": CONFIG_PRINCIPAL,
            "created_at": at,
            "updated_at": at,
        },
    )
    add_revision(tx, schedule_id, 1, now, CONFIG_PRINCIPAL, "create", entry.definition)


def _update(tx: Transaction, entry: _Declaration, row: ScheduleRow, now: datetime) -> None:
    changes = entry.changes
    values: dict[str, Any] = {key: entry.definition[key] for key in changes if key != "paused"}
    if entry.new_pause:
        values["declared_paused"] = int(entry.schedule.paused)
    if "paused" in changes:
        values.update(pause_columns(_NOTE if entry.schedule.paused else None, now, paused=entry.schedule.paused))
    redefine(tx, row, values, now, Revision(CONFIG_PRINCIPAL, "update", changes))


def _revive(tx: Transaction, row: ScheduleRow, definition: dict[str, Any], schedule: Schedule, now: datetime) -> None:
    """Restore a retired schedule with its history; it is due again from now on."""
    values = {
        **definition,
        **pause_columns(_NOTE if schedule.paused else None, now, paused=schedule.paused),
        "declared_paused": int(schedule.paused),
        "deleted_at": None,
    }
    before = {**row.definition, "paused": row.paused}
    after = {**definition, "paused": schedule.paused}
    changes = {key: [before[key], value] for key, value in after.items() if before[key] != value}
    changed = change_schedule(tx, row, values, now, principal=CONFIG_PRINCIPAL, action="revive", changes=changes)
    move_cursor(tx, changed, now)


def definition_of(schedule: Schedule, config: Config) -> dict[str, Any]:
    """Return the columns that a schedule of the file sets."""
    columns = {
        column: None if (value := value_of(schedule)) is None else stored(value)
        for column, value_of, stored in _COLUMNS
    }
    columns["timezone"] = schedule.timezone or config.daemon.timezone
    unset = {entry.column: None for entry in DERIVED if entry.key not in schedule.model_fields_set}
    return with_defaults({**columns, **unset})
