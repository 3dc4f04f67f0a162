"""Changes of a schedule's row, whoever makes them: each settles what has come due before it and leaves a revision."""

from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from daemon.fires import record_pause, skip_undecided
from daemon.store.database import Transaction
from daemon.store.schedules import CADENCE_KEYS, ScheduleRow, change_schedule, move_cursor
from daemon.units import format_instant


@dataclass(frozen=True)
class Mark:
    """What a revision says of a change: who, what, and why."""

    principal: str
    action: str
    changes: dict[str, list[Any]] = field(default_factory=dict)
    note: str | None = None


def pause_columns(note: str | None, now: datetime, *, paused: bool) -> dict[str, Any]:
    """Return the columns that say whether a schedule is paused."""
    return {"paused": int(paused), "paused_at": format_instant(now) if paused else None, "pause_note": note}


def redefine(tx: Transaction, row: ScheduleRow, values: dict[str, Any], now: datetime, mark: Mark) -> ScheduleRow:
    """Set columns of a live schedule; a new cadence, a pause and a resumption count from now."""
    new_cadence = bool(values.keys() & {*CADENCE_KEYS})
    resumed = row.paused and values.get("paused") == 0
    pauses = not row.paused and values.get("paused") == 1
    if row.paused and (resumed or new_cadence):
        record_pause(tx, row, now)
    elif new_cadence or pauses:
        what = "the schedule was paused" if pauses else "the cadence was changed"
        skip_undecided(tx, row, now, f"{what} before this due time was decided")
    changed = change(tx, row, values, now, mark)
    if resumed or pauses or new_cadence or "jitter_ms" in values:
        move_cursor(tx, changed, now if resumed or pauses or new_cadence else row.cursor)
    return changed


def remove(tx: Transaction, row: ScheduleRow, now: datetime, mark: Mark) -> ScheduleRow:
    """Soft-delete a schedule: its name is free, its history stays."""
    if row.paused:
        record_pause(tx, row, now)
    else:
        skip_undecided(tx, row, now, f"the schedule was {mark.action}d before this due time was decided")
    return change(tx, row, {"deleted_at": format_instant(now)}, now, mark)


def change(tx: Transaction, row: ScheduleRow, values: dict[str, Any], now: datetime, mark: Mark) -> ScheduleRow:
    """Set columns of a schedule, raise its version, and leave the revision that the mark describes."""
    return change_schedule(
        tx, row, values, now, principal=mark.principal, action=mark.action, changes=mark.changes, note=mark.note
    )
