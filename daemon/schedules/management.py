"""Schedules managed while the daemon runs: created, changed, paused, triggered, skipped and deleted.

Everything here happens inside one transaction. Callers have checked the rights of the principal.
"""

import hashlib
import json
import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from daemon.errors import InvalidError, NotFoundError, RefusedError, StaleVersionError
from daemon.fires.run_of_fire import run_of_fire
from daemon.model import DueTime, Trigger
from daemon.schedules.revision import Mark, change, pause_columns, redefine, remove
from daemon.store.connection import Transaction
from daemon.store.runs import create_run
from daemon.store.schedules import (
    ScheduleRow,
    add_revision,
    cadence_from,
    get_schedule,
    insert_schedule,
)
from daemon.store.skips import add_skip, pending_skips, remove_skip
from daemon.store.trigger_keys import find_trigger, remember_trigger
from daemon.units import format_instant

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class Asked:
    """Who asks for a change, when, and which versions of the schedule it was meant for."""

    principal: str
    now: datetime
    versions: Collection[int] | None = None
    """None: any version."""


def find(tx: Transaction, agent: str, name: str, asked: Asked) -> ScheduleRow:
    """Return the live schedule to be changed; raise NotFoundError, or StaleVersionError if its version differs."""
    row = get_schedule(tx, agent, name)
    if row is None:
        raise NotFoundError(f"no schedule {agent}/{name}")
    if asked.versions is not None and row.version not in asked.versions:
        raise StaleVersionError(f"{row.address} is at version {row.version}; read it again and repeat the change")
    return row


def create(tx: Transaction, agent: str, name: str, values: dict[str, Any], asked: Asked) -> ScheduleRow:
    """Create a schedule of a definition and `paused`, due from now on; raise RefusedError if the name is taken."""
    taken = get_schedule(tx, agent, name)
    if taken is not None:
        where = "in the config file" if taken.source == "declared" else "already"
        raise RefusedError(f"there is a schedule {agent}/{name} {where}; choose another name")
    _check_bounds(values)
    at = format_instant(asked.now)
    columns = {
        "agent": agent,
        "name": name,
        "source": "created",
        **values,
        **pause_columns(None, asked.now, paused=bool(values["paused"])),
        "creator": asked.principal,
        "created_at": at,
        "updated_at": at,
    }
    schedule_id = insert_schedule(tx, f"{agent}/{name}", asked.now, columns)
    first = {key: [None, value] for key, value in values.items()}
    add_revision(tx, schedule_id, 1, asked.now, asked.principal, "create", first)
    return find(tx, agent, name, replace(asked, versions=None))


def update(tx: Transaction, row: ScheduleRow, values: dict[str, Any], asked: Asked) -> ScheduleRow:
    """Set columns of the definition, and `paused`; raise RefusedError for a schedule of the config file."""
    if row.source == "declared":
        raise RefusedError(f"{row.address} is declared in the config file; change it there and reload")
    before = {**row.definition, "paused": int(row.paused)}
    changes = {key: [before[key], value] for key, value in values.items() if before[key] != value}
    if not changes:
        return row
    _check_bounds({**row.definition, **values})
    columns = {key: value for key, (_, value) in changes.items()}
    if "paused" in changes:
        columns |= pause_columns(None, asked.now, paused=bool(columns["paused"]))
        changes |= _note_changes(row, None)
    return redefine(tx, row, columns, asked.now, Mark(asked.principal, "update", changes))


def _check_bounds(definition: dict[str, Any]) -> None:
    if definition["cron"] is not None and definition["offset_ms"]:
        raise InvalidError("offset_seconds shifts the phase of interval_seconds; a cron schedule has none")
    if definition["cron"] is None and definition["every_ms"] is None:
        raise InvalidError("the schedule would have no cadence; set cron_expression or interval_seconds")
    start, end = definition["start_at"], definition["end_at"]
    if start is not None and end is not None and start > end:
        raise InvalidError("end_at lies before start_at, so the schedule would never be due")
    cadence_from(definition)


def pause(tx: Transaction, row: ScheduleRow, note: str | None, asked: Asked) -> ScheduleRow:
    """Pause a schedule; a new note on a paused one is also a change."""
    if row.paused and note in {None, row.pause_note}:
        return row
    changes = _note_changes(row, note) | ({} if row.paused else {"paused": [0, 1]})
    values: dict[str, Any] = {"pause_note": note} if row.paused else pause_columns(note, asked.now, paused=True)
    return redefine(tx, row, values, asked.now, Mark(asked.principal, "pause", changes, note))


def resume(tx: Transaction, row: ScheduleRow, note: str | None, asked: Asked) -> ScheduleRow:
    """Resume a paused schedule; due times during the pause are not caught up."""
    if not row.paused:
        return row
    values = pause_columns(None, asked.now, paused=False)
    changes = {"paused": [1, 0], **_note_changes(row, None)}
    return redefine(tx, row, values, asked.now, Mark(asked.principal, "resume", changes, note))


def _note_changes(row: ScheduleRow, note: str | None) -> dict[str, list[Any]]:
    return {} if note == row.pause_note else {"pause_note": [row.pause_note, note]}


def delete(tx: Transaction, row: ScheduleRow, asked: Asked) -> ScheduleRow:
    """Delete a schedule softly; raise RefusedError for a schedule of the config file."""
    if row.source == "declared":
        raise RefusedError(f"{row.address} is declared in the config file; remove it there and reload")
    return remove(tx, row, asked.now, Mark(asked.principal, "delete"))


def trigger(
    tx: Transaction, agent: str, name: str, overrides: dict[str, Any], key: str | None, asked: Asked, instance: str
) -> int:
    """Create a run now, out of band, and return its number; the same key and request give the same run.

    A repeated request is answered even if the schedule has another version by now. `overrides` are columns of the run
    that replace the schedule's. Raise RefusedError if the key was used for another request.
    """
    row = find(tx, agent, name, replace(asked, versions=None))
    request = hashlib.sha256(json.dumps(overrides, sort_keys=True).encode()).hexdigest()
    if key is not None:
        known = find_trigger(tx, row.id, key)
        if known is not None and known.request != request:
            raise RefusedError(
                f"the Idempotency-Key {key!r} was used for another request; run {known.run_id} answered it"
            )
        if known is not None:
            return known.run_id
    row = find(tx, agent, name, asked)
    due = DueTime(asked.now)
    new = run_of_fire(row, due, Trigger.MANUAL, instance, creator=asked.principal)
    run_id, _ = create_run(tx, replace(new, name=f"{new.name}:manual-{uuid.uuid4()}", **overrides), asked.now)
    if key is not None:
        remember_trigger(tx, row.id, key, request, run_id)
    return run_id


def skip(tx: Transaction, row: ScheduleRow, due: datetime, asked: Asked) -> ScheduleRow:
    """Skip one upcoming due time; raise InvalidError if it is not one."""
    upcoming = due > row.cursor and row.cadence.start_of(DueTime(due), row.address) > asked.now
    if not upcoming or row.cadence.next_after(due - _INSTANT) != due:
        raise InvalidError(f"{format_instant(due)} is not an upcoming due time of {row.address}")
    if format_instant(due) in pending_skips(tx, row.id):
        return row
    add_skip(tx, row.id, due, asked.now, asked.principal)
    changes = {"skipped_action_times": [None, format_instant(due)]}
    return change(tx, row, {}, asked.now, Mark(asked.principal, "skip", changes))


def unskip(tx: Transaction, row: ScheduleRow, due: datetime, asked: Asked) -> ScheduleRow:
    """Cancel the skip of a due time; raise InvalidError if it is not skipped, or came during a pause."""
    if not remove_skip(tx, row.id, due):
        raise InvalidError(f"{format_instant(due)} is not skipped")
    if row.paused and due <= asked.now:
        raise InvalidError(f"{format_instant(due)} came while {row.address} was paused")
    changes = {"skipped_action_times": [format_instant(due), None]}
    return change(tx, row, {}, asked.now, Mark(asked.principal, "unskip", changes))
