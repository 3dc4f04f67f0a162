"""Operations on schedules while the daemon runs: create, update, pause, resume, trigger, skip, unskip and delete.

Each runs in the caller's transaction. The caller has checked the rights of the principal.
"""

import uuid
from collections.abc import Collection
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

from daemon.errors import InvalidError, NotFoundError, RefusedError, StaleVersionError
from daemon.fires.run_of_fire import run_of_fire
from daemon.model import DueTime, Overlap, SessionPolicy, Trigger
from daemon.rules.sessions import TWO_IN_ONE_SESSION
from daemon.runs.waiting import cancel_begun
from daemon.schedules.defaults import DERIVED, follow_cadence, with_defaults
from daemon.schedules.revision import Revision, change, pause_columns, redefine, remove
from daemon.store.connection import Transaction
from daemon.store.limits import check_created, check_pending
from daemon.store.rows import UNREADABLE
from daemon.store.runs import create_run
from daemon.store.schedules import (
    CADENCE_KEYS,
    ScheduleRow,
    add_revision,
    cadence_from,
    get_schedule,
    insert_schedule,
)
from daemon.store.skips import add_skip, pending_skips, remove_skip
from daemon.store.trigger_keys import KeyScope, remember_key, run_of_key
from daemon.units import format_instant

_INSTANT = timedelta(microseconds=1)


@dataclass(frozen=True)
class ChangeRequest:
    """Who requests a change, when, and for which versions of the schedule."""

    principal: str
    now: datetime
    versions: Collection[int] | None = None
    """None: any version."""
    limited: bool = False
    """Whether the principal may not cause more than the limits allow; administrators may."""


def find(tx: Transaction, agent: str, name: str, request: ChangeRequest) -> ScheduleRow:
    """Return the live schedule to change; raise NotFoundError, or StaleVersionError for another version."""
    row = get_schedule(tx, agent, name)
    if row is None:
        raise NotFoundError(f"no schedule {agent}/{name}")
    if request.versions is not None and row.version not in request.versions:
        asked = f", not {next(iter(request.versions))}" if len(request.versions) == 1 else ""
        raise StaleVersionError(
            f"{row.address} is at version {row.version}{asked}: it has changed since then, and nothing was done; "
            "read it again and repeat the change"
        )
    return row


def create(tx: Transaction, agent: str, name: str, values: dict[str, Any], request: ChangeRequest) -> ScheduleRow:
    """Create a schedule from definition columns and `paused`; raise RefusedError for a taken name, LimitError."""
    taken = get_schedule(tx, agent, name)
    if taken is not None:
        where = " in the config file" if taken.source == "declared" else ""
        raise RefusedError(f"schedule {agent}/{name} already exists{where}; choose another name")
    _check_bounds(values)
    _check_session(values)
    values = with_defaults(values)
    if request.limited:
        check_created(tx, request.principal, request.now)
    at = format_instant(request.now)
    columns = {
        "agent": agent,
        "name": name,
        "source": "created",
        **values,
        **pause_columns(None, request.now, paused=bool(values["paused"])),
        "creator": request.principal,
        "created_at": at,
        "updated_at": at,
    }
    schedule_id = insert_schedule(tx, f"{agent}/{name}", request.now, columns)
    first = {key: [None, value] for key, value in values.items()}
    add_revision(tx, schedule_id, 1, request.now, request.principal, "create", first)
    return find(tx, agent, name, replace(request, versions=None))


def update(tx: Transaction, row: ScheduleRow, values: dict[str, Any], request: ChangeRequest) -> ScheduleRow:
    """Set definition columns and `paused`; raise RefusedError for a schedule from the config file."""
    if row.source == "declared":
        raise RefusedError(f"{row.address} is declared in the config file; change it there and reload")
    before = {**row.definition, "paused": int(row.paused)}
    values = follow_cadence(row.definition, values)
    if values.keys() & {*CADENCE_KEYS, *(field.column for field in DERIVED)}:
        _check_bounds({**row.definition, **values})
    if values.keys() & {"session", "overlap"}:
        _check_session({**row.definition, **values})
    complete = with_defaults({**row.definition, **values})
    values = {key: complete.get(key, value) for key, value in values.items()}
    changes = {key: [before[key], value] for key, value in values.items() if before[key] != value}
    if not changes:
        return row
    columns = {key: value for key, (_, value) in changes.items()}
    if "paused" in changes:
        columns |= pause_columns(None, request.now, paused=bool(columns["paused"]))
        changes |= _note_changes(row, None)
    return redefine(tx, row, columns, request.now, Revision(request.principal, "update", changes))


def _check_bounds(definition: dict[str, Any]) -> None:
    if definition["cron"] is not None and definition["offset_ms"]:
        raise InvalidError("offset_seconds shifts the phase of interval_seconds; a cron schedule has none")
    if definition["cron"] is None and definition["every_ms"] is None:
        raise InvalidError("the schedule would have no cadence; set cron_expression or interval_seconds")
    start, end = definition["start_at"], definition["end_at"]
    if start is not None and end is not None and start > end:
        raise InvalidError("end_at is before start_at, so the schedule would never be due")
    try:
        cadence_from(definition)
    except UNREADABLE as error:  # of what it had before: another host may have had its time zone
        raise InvalidError(f"the schedule would have no cadence: {error}") from None


def _check_session(definition: dict[str, Any]) -> None:
    if definition["session"] == SessionPolicy.CONTINUE and definition["overlap"] == Overlap.ALLOW_ALL:
        raise InvalidError(f"session: {TWO_IN_ONE_SESSION}")


def pause(tx: Transaction, row: ScheduleRow, note: str | None, request: ChangeRequest) -> ScheduleRow:
    """Pause a schedule, whose pending runs wait then; a new note for a paused schedule is also a change."""
    if row.paused and note in {None, row.pause_note}:
        return row
    changes = _note_changes(row, note) | ({} if row.paused else {"paused": [0, 1]})
    values: dict[str, Any] = {"pause_note": note} if row.paused else pause_columns(note, request.now, paused=True)
    return redefine(tx, row, values, request.now, Revision(request.principal, "pause", changes, note))


def resume(tx: Transaction, row: ScheduleRow, note: str | None, request: ChangeRequest) -> ScheduleRow:
    """Resume a paused schedule; due times during the pause are not caught up, and runs that waited are decided."""
    if not row.paused:
        return row
    values = pause_columns(None, request.now, paused=False)
    changes = {"paused": [1, 0], **_note_changes(row, None)}
    return redefine(tx, row, values, request.now, Revision(request.principal, "resume", changes, note))


def _note_changes(row: ScheduleRow, note: str | None) -> dict[str, list[Any]]:
    return {} if note == row.pause_note else {"pause_note": [row.pause_note, note]}


def delete(tx: Transaction, row: ScheduleRow, request: ChangeRequest) -> tuple[ScheduleRow, int]:
    """Soft-delete a schedule; return its row, and how many waiting runs were cancelled.

    Raise RefusedError for a schedule from the config file.
    """
    if row.source == "declared":
        raise RefusedError(f"{row.address} is declared in the config file; remove it there and reload")
    return remove(tx, row, request.now, Revision(request.principal, "delete"))


def cancel_running(tx: Transaction, row: ScheduleRow, request: ChangeRequest, why: str) -> int:
    """Request the cancellation of the runs of a schedule that have started; return their number."""
    return cancel_begun(tx, row.id, request.now, request.principal, f"its schedule was {why}")


def trigger(
    tx: Transaction,
    agent: str,
    name: str,
    overrides: dict[str, Any],
    key: str | None,
    request: ChangeRequest,
    instance: str,
) -> int:
    """Create a run now, out of band, and return its number; a repeated key with the same body returns the same run.

    A repeated key is answered even if the schedule has another version by now. `overrides` are columns of the run that
    replace the schedule's. Raise RefusedError if the key was used with another body, LimitError if too many wait.
    """
    row = find(tx, agent, name, replace(request, versions=None))
    scope = KeyScope.of_schedule(row.id)
    known = run_of_key(tx, scope, key, overrides)
    if known is not None:
        return known
    row = find(tx, agent, name, request)
    if request.limited:
        check_pending(tx, request.principal)
    due = DueTime(request.now)
    new = run_of_fire(row, due, Trigger.MANUAL, instance, creator=request.principal)
    run_id, _ = create_run(tx, replace(new, name=f"{new.name}:manual-{uuid.uuid4()}", **overrides), request.now)
    remember_key(tx, scope, key, overrides, run_id)
    return run_id


def skip(tx: Transaction, row: ScheduleRow, due: datetime, request: ChangeRequest) -> ScheduleRow:
    """Skip one upcoming due time; raise InvalidError if there is none at that instant."""
    upcoming = due > row.cursor and row.cadence.start_of(DueTime(due), row.address) > request.now
    if not upcoming or row.cadence.next_after(due - _INSTANT) != due:
        raise InvalidError(f"{format_instant(due)} is not an upcoming due time of {row.address}")
    if format_instant(due) in pending_skips(tx, row.id):
        return row
    add_skip(tx, row.id, due, request.now, request.principal)
    changes = {"skipped_action_times": [None, format_instant(due)]}
    return change(tx, row, {}, request.now, Revision(request.principal, "skip", changes))


def unskip(tx: Transaction, row: ScheduleRow, due: datetime, request: ChangeRequest) -> ScheduleRow:
    """Cancel the skip of a due time; raise InvalidError if it is not skipped, or passed during a pause."""
    if not remove_skip(tx, row.id, due):
        raise InvalidError(f"{format_instant(due)} is not skipped")
    if row.paused and due <= request.now:
        raise InvalidError(f"{format_instant(due)} passed while {row.address} was paused")
    changes = {"skipped_action_times": [format_instant(due), None]}
    return change(tx, row, {}, request.now, Revision(request.principal, "unskip", changes))
