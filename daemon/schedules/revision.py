"""Changes the row of a schedule: first records the due times up to the change, then adds a revision."""

from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import Any

from daemon.fires.ledger import record_pause, skip_undecided, waiting_for_jitter
from daemon.model import SessionPolicy
from daemon.rules.cadence import Cadence
from daemon.runs.waiting import DELETED, RETIRED, cancel_waiting, resume_waiting
from daemon.store.connection import Transaction
from daemon.store.notifications import forget_problems
from daemon.store.schedules import CADENCE_KEYS, ScheduleRow, cadence_from, change_schedule, move_cursor
from daemon.store.sessions import forget_session
from daemon.store.skips import pending_skips, remove_skip
from daemon.units import format_instant, parse_instant

_MILLISECOND = timedelta(milliseconds=1)  # the resolution of stored times


@dataclass(frozen=True)
class Revision:
    """What a revision records about a change: who, what and why."""

    principal: str
    action: str
    changes: dict[str, list[Any]] = field(default_factory=dict)
    note: str | None = None


def pause_columns(note: str | None, now: datetime, *, paused: bool) -> dict[str, Any]:
    """Return the columns that hold whether, since when and why a schedule is paused."""
    return {"paused": int(paused), "paused_at": format_instant(now) if paused else None, "pause_note": note}


def redefine(
    tx: Transaction, row: ScheduleRow, values: dict[str, Any], now: datetime, revision: Revision
) -> ScheduleRow:
    """Set columns of a live schedule; a new cadence, a pause or a resumption takes effect from now.

    A resumption also decides the runs that waited for it. Of a schedule of which it is unknown when it was due, such as
    one in a time zone that this host does not have, no due times are recorded.
    """
    new_cadence = bool(values.keys() & {*CADENCE_KEYS})
    resumed = row.paused and values.get("paused") == 0
    pauses = not row.paused and values.get("paused") == 1
    cursor = row.cursor
    if row.paused and (resumed or new_cadence):
        record_pause(tx, row, now)
        cursor = now
    elif not row.has_cadence:
        cursor = now
    elif new_cadence or pauses:
        change_made = "the schedule was paused" if pauses else "the cadence was changed"
        waiting = waiting_for_jitter(row, now)
        if new_cadence and waiting is not None and not _is_due(cadence_from({**row.definition, **values}), waiting):
            waiting = None
        cursor = now if waiting is None else waiting - _MILLISECOND
        skip_undecided(tx, row, cursor, f"{change_made} before this due time was decided")
    if new_cadence:
        revision = _without_old_skips(tx, row, cadence_from({**row.definition, **values}), revision)
    changed = change(tx, row, values, now, revision)
    if resumed or pauses or new_cadence or "jitter_ms" in values:
        move_cursor(tx, changed, cursor)
    if values.get("session") == SessionPolicy.NEW:
        forget_session(tx, row.id)
    if resumed:
        resume_waiting(tx, changed, now, revision.principal)
    return changed


def _is_due(cadence: Cadence, at: datetime) -> bool:
    return cadence.next_after(at - _MILLISECOND) == at


def _without_old_skips(tx: Transaction, row: ScheduleRow, cadence: Cadence, revision: Revision) -> Revision:
    """Remove the skips that are not due times of a new cadence; return the revision with this change."""
    pending = pending_skips(tx, row.id)
    left = [at for at in pending if _is_due(cadence, parse_instant(at))]
    for at in pending:
        if at not in left:
            remove_skip(tx, row.id, parse_instant(at))
    return (
        revision
        if left == pending
        else replace(revision, changes={**revision.changes, "skipped_action_times": [pending, left]})
    )


def remove(tx: Transaction, row: ScheduleRow, now: datetime, revision: Revision) -> tuple[ScheduleRow, int]:
    """Soft-delete a schedule: its name becomes free, its waiting runs are cancelled, and its history stays.

    Return its row, and how many runs were cancelled.
    """
    if row.paused:
        record_pause(tx, row, now)
    elif row.has_cadence:
        skip_undecided(tx, row, now, f"the schedule was {revision.action}d before this due time was decided")
    removed = change(tx, row, {"deleted_at": format_instant(now)}, now, revision)
    forget_problems(tx, row.id)
    forget_session(tx, row.id)
    why = DELETED if revision.action == "delete" else RETIRED
    return removed, cancel_waiting(tx, row.id, now, revision.principal, why)


def change(tx: Transaction, row: ScheduleRow, values: dict[str, Any], now: datetime, revision: Revision) -> ScheduleRow:
    """Set columns of a schedule, increase its version, and add the revision."""
    return change_schedule(
        tx,
        row,
        values,
        now,
        principal=revision.principal,
        action=revision.action,
        changes=revision.changes,
        note=revision.note,
    )
