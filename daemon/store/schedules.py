"""Rows of `schedules` and their revisions, and when each schedule wakes the clock next."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import cached_property, lru_cache
from typing import Any, Literal, NamedTuple

from daemon.errors import DamagedRowError
from daemon.model import Catchup, DueTime, Overlap
from daemon.rules.cadence import Cadence, cron_cadence, interval_cadence
from daemon.rules.schedule_fields import DEFINITION
from daemon.store.connection import Transaction
from daemon.store.rows import UNREADABLE, damaged, given, row_of, shown
from daemon.store.skips import forget_past_skips
from daemon.units import format_instant, parse_instant

UNDECIDABLE = (*UNREADABLE, DamagedRowError)
"""What reading a schedule with a damaged row raises, and what comes of its values."""
CADENCE_KEYS = tuple(field.column for field in DEFINITION if field.cadence)
DUE_KEYS = (*CADENCE_KEYS, "jitter_ms")
"""The columns that `cadence_from` needs."""
DEFINITION_KEYS = tuple(field.column for field in DEFINITION)


@dataclass(frozen=True)
class ScheduleRow:
    """A schedule as the database has it, with what the clock needs in its own types."""

    id: int
    agent: str
    name: str
    source: Literal["declared", "created"]
    version: int
    paused: bool
    paused_at: datetime | None
    pause_note: str | None
    declared_paused: bool | None
    deleted_at: datetime | None
    creator: str
    cursor: datetime
    next_due: DueTime | None
    definition: dict[str, Any]
    created_at: str
    updated_at: str

    @property
    def address(self) -> str:
        """The schedule's name for people: `AGENT/NAME`."""
        return f"{self.agent}/{self.name}"

    @cached_property
    def cadence(self) -> Cadence:
        """When it is due; raise DamagedRowError if that is unknown, such as for a zone that this host does not have."""
        with row_of(f"schedule {self.address}"):
            return cadence_from(self.definition)

    @property
    def has_cadence(self) -> bool:
        """Whether it is known when it is due."""
        try:
            return self.cadence is not None
        except DamagedRowError:
            return False

    @property
    def overlap(self) -> Overlap:
        """What a due time does while an earlier run is unfinished."""
        return Overlap(self.definition["overlap"])

    @property
    def catchup(self) -> Catchup:
        """Which missed due times are started."""
        return Catchup(self.definition["catchup"])

    @property
    def catchup_window(self) -> timedelta:
        """The greatest age at which a missed due time is still started."""
        return timedelta(milliseconds=self.definition["catchup_window_ms"])


def cadence_from(definition: dict[str, Any]) -> Cadence:
    """Return when a schedule of that definition is due."""
    return _cadence(**{key: definition[key] for key in DUE_KEYS})


@lru_cache(maxsize=4096)
def _cadence(
    cron: str | None,
    every_ms: int | None,
    offset_ms: int,
    timezone: str,
    start_at: str | None,
    end_at: str | None,
    jitter_ms: int,
) -> Cadence:
    """Build the cadence that the columns describe."""
    start = parse_instant(start_at) if start_at else None
    end = parse_instant(end_at) if end_at else None
    jitter = timedelta(milliseconds=jitter_ms)
    if cron is not None:
        return cron_cadence(cron, timezone, start, end, jitter)
    length, offset = timedelta(milliseconds=every_ms or 0), timedelta(milliseconds=offset_ms)
    return interval_cadence(length, offset, start, end, jitter)


def schedule_from(row: sqlite3.Row) -> ScheduleRow:
    """Build a ScheduleRow from a row of `schedules`; raise DamagedRowError."""
    try:
        return _schedule_from(row)
    except UNREADABLE as error:
        raise damaged(f"schedule {row['agent']}/{row['name']}", error) from None


def _schedule_from(columns: sqlite3.Row) -> ScheduleRow:
    row = dict(zip(columns.keys(), columns, strict=True))  # sqlite3.Row searches all columns for each name
    return ScheduleRow(
        id=row["id"],
        agent=row["agent"],
        name=row["name"],
        source=row["source"],
        version=row["version"],
        paused=bool(row["paused"]),
        paused_at=parse_instant(row["paused_at"]) if row["paused_at"] else None,
        pause_note=row["pause_note"],
        declared_paused=None if row["declared_paused"] is None else bool(row["declared_paused"]),
        deleted_at=parse_instant(row["deleted_at"]) if row["deleted_at"] else None,
        creator=row["creator"],
        cursor=parse_instant(row["cursor"]),
        next_due=DueTime(parse_instant(row["next_due"])) if row["next_due"] else None,
        definition={key: row[key] for key in DEFINITION_KEYS},
        created_at=row["created_at"],
        updated_at=row["updated_at"],
    )


_COLUMNS = (
    *("id", "agent", "name", "source", "version", "paused", "paused_at", "pause_note", "declared_paused"),
    *("deleted_at", "creator", "cursor", "next_due", "created_at", "updated_at"),
    *DEFINITION_KEYS,
)
_SHOWN = {name: shown(name) for name in ("description", "pause_note")}
_BULKY = ("input_content", "task_params", "task_metadata")


def _select(texts: Mapping[str, str]) -> str:
    columns = ", ".join(f"{texts[name]} AS {name}" if name in texts else name for name in _COLUMNS)
    return f"SELECT {columns} FROM schedules"


SELECT_SCHEDULES = _select(_SHOWN | {name: given(name) for name in _BULKY})
"""Selects rows of ScheduleRow."""
SELECT_WITHOUT_INPUT = _select(_SHOWN | dict.fromkeys(_BULKY, "NULL"))
"""The same, with null for what may take a megabyte: its input, parameters and metadata."""


def get_schedule(source: Transaction | sqlite3.Connection, agent: str, name: str) -> ScheduleRow | None:
    """Return the live schedule of that address."""
    row = source.execute(
        f"{SELECT_SCHEDULES} WHERE agent = ? AND name = ? AND deleted_at IS NULL", (agent, name)
    ).fetchone()
    return schedule_from(row) if row else None


def get_schedule_by_id(source: Transaction | sqlite3.Connection, schedule_id: int) -> ScheduleRow | None:
    """Return a schedule, live or deleted, by its number."""
    row = source.execute(f"{SELECT_SCHEDULES} WHERE id = ?", (schedule_id,)).fetchone()
    return schedule_from(row) if row else None


def live_schedules(source: Transaction | sqlite3.Connection) -> tuple[list[ScheduleRow], dict[str, str]]:
    """Return all schedules that are not deleted, by address, and why the rows of others cannot be read."""
    return _readable(live_rows(source))


def live_rows(source: Transaction | sqlite3.Connection) -> list[sqlite3.Row]:
    """Return the rows of all schedules that are not deleted, by address."""
    return source.execute(f"{SELECT_SCHEDULES} WHERE deleted_at IS NULL ORDER BY agent, name").fetchall()


def _readable(rows: Iterable[sqlite3.Row]) -> tuple[list[ScheduleRow], dict[str, str]]:
    found: list[ScheduleRow] = []
    damaged: dict[str, str] = {}
    for row in rows:
        try:
            found.append(_schedule_from(row))
        except UNREADABLE as error:
            damaged[f"{row['agent']}/{row['name']}"] = f"its row is damaged: {error}"
    return found, damaged


def undecidable_schedules(source: Transaction | sqlite3.Connection) -> dict[str, str]:
    """Return the live schedules of which it is unknown when they are due, by address, each with its time zone."""
    rows = source.execute(f"{SELECT_WITHOUT_INPUT} WHERE deleted_at IS NULL ORDER BY agent, name")
    return {row.address: row.definition["timezone"] for row in _readable(rows)[0] if not row.has_cadence}


def deleted_schedule(source: Transaction | sqlite3.Connection, agent: str, name: str) -> ScheduleRow | None:
    """Return the schedule of that address that was deleted last."""
    row = source.execute(
        f"{SELECT_SCHEDULES} WHERE agent = ? AND name = ? AND deleted_at IS NOT NULL "
        "ORDER BY deleted_at DESC, id DESC LIMIT 1",
        (agent, name),
    ).fetchone()
    return schedule_from(row) if row else None


def retired_schedules(source: Transaction | sqlite3.Connection) -> list[ScheduleRow]:
    """Return the schedules that were removed from the file; of several with one address, the latest is last.

    Those whose rows cannot be read are omitted.
    """
    rows = source.execute(
        f"{SELECT_SCHEDULES} WHERE deleted_at IS NOT NULL AND source = 'declared' ORDER BY deleted_at, id"
    )
    return _readable(rows)[0]


def due_schedules(tx: Transaction, now: datetime, limit: int) -> list[sqlite3.Row]:
    """Return the rows of live, unpaused schedules whose next start has come, earliest first."""
    return tx.execute(
        f"{SELECT_SCHEDULES} WHERE deleted_at IS NULL AND paused = 0 AND wake_at IS NOT NULL AND wake_at <= ? "
        "ORDER BY wake_at LIMIT ?",
        (format_instant(now), limit),
    ).fetchall()


def next_wake(source: Transaction | sqlite3.Connection, unreadable: datetime | None = None) -> datetime | None:
    """Return the instant of the earliest start that the clock must be armed for; `unreadable` if it is none."""
    row = source.execute(
        "SELECT min(wake_at) AS at FROM schedules WHERE deleted_at IS NULL AND paused = 0 AND wake_at IS NOT NULL"
    ).fetchone()
    try:
        return parse_instant(row["at"]) if row["at"] is not None else None
    except ValueError:
        return unreadable


class LiveSchedule(NamedTuple):
    """What a live schedule is called, and where it comes from."""

    agent: str
    name: str
    is_declared: bool


def first_live(source: Transaction | sqlite3.Connection, known: Collection[int], most: int) -> dict[int, LiveSchedule]:
    """Return at most so many live schedules by number: first those of the config, of these and the others the known."""
    rows = source.execute(
        "SELECT id, agent, name, source FROM schedules WHERE deleted_at IS NULL "
        "ORDER BY source = 'created', id NOT IN (SELECT value FROM json_each(?)), id LIMIT ?",
        (json.dumps([*known]), most),
    )
    return {row["id"]: LiveSchedule(row["agent"], row["name"], row["source"] == "declared") for row in rows}


def move_cursor(tx: Transaction, row: ScheduleRow, cursor: datetime) -> None:
    """Record that every due time up to the cursor is decided, and when the next start is.

    If it is unknown when the schedule is due, the clock checks it, and reports it.
    """
    forget_past_skips(tx, row.id, cursor)
    if not row.has_cadence:
        set_cursor(tx, row.id, cursor)
        return
    values = _after(row.cadence, row.address, cursor)
    tx.execute("UPDATE schedules SET cursor = ?, next_due = ?, wake_at = ? WHERE id = ?", (*values, row.id))


def _after(cadence: Cadence, address: str, cursor: datetime) -> tuple[str, str | None, str | None]:
    """Return the columns cursor, next_due and wake_at."""
    next_due = cadence.next_after(cursor)
    if next_due is None:
        return format_instant(cursor), None, None
    wake = cadence.start_of(next_due, address)
    return format_instant(cursor), format_instant(next_due), format_instant(wake)


def put_off(tx: Transaction, schedule_id: int, until: datetime) -> None:
    """Postpone the decision about a schedule's due times."""
    at = format_instant(until)
    tx.execute("UPDATE schedules SET wake_at = ?1, next_due = coalesce(next_due, ?1) WHERE id = ?2", (at, schedule_id))


def set_cursor(tx: Transaction, schedule_id: int, cursor: datetime) -> None:
    """Record that every due time up to the cursor is decided, of a schedule with a damaged row; the clock checks it."""
    at = format_instant(cursor)
    tx.execute("UPDATE schedules SET cursor = ?1, next_due = ?1, wake_at = ?1 WHERE id = ?2", (at, schedule_id))


def schedules_ahead(tx: Transaction, now: datetime) -> list[sqlite3.Row]:
    """Return the rows of the live schedules whose cursor lies in the future, after a backward step of the clock."""
    return tx.execute(f"{SELECT_SCHEDULES} WHERE deleted_at IS NULL AND cursor > ?", (format_instant(now),)).fetchall()


def insert_schedule(tx: Transaction, address: str, cursor: datetime, values: dict[str, Any]) -> int:
    """Write a new schedule, due after the cursor, and return its number."""
    due = _after(cadence_from(values), address, cursor)
    columns = {**values, **dict(zip(("cursor", "next_due", "wake_at"), due, strict=True))}
    marks = ", ".join("?" for _ in columns)
    written = tx.execute(f"INSERT INTO schedules ({', '.join(columns)}) VALUES ({marks})", columns.values())
    tx.changes.count("schedule", "create")  # which wakes the clock
    return int(written.lastrowid or 0)


def change_schedule(
    tx: Transaction,
    row: ScheduleRow,
    values: dict[str, Any],
    now: datetime,
    *,
    principal: str,
    action: str,
    changes: dict[str, Any] | None = None,
    note: str | None = None,
) -> ScheduleRow:
    """Set columns of a schedule, raise its version and add a revision; return the schedule as it is now."""
    columns = {**values, "version": row.version + 1, "updated_at": format_instant(now)}
    assignments = ", ".join(f"{name} = ?" for name in columns)
    tx.execute(f"UPDATE schedules SET {assignments} WHERE id = ?", (*columns.values(), row.id))
    add_revision(tx, row.id, row.version + 1, now, principal, action, changes, note)
    tx.changes.count("schedule", action)  # which wakes the clock
    changed = get_schedule_by_id(tx, row.id)
    return changed or row


def cadence_at(tx: Transaction, row: ScheduleRow, version: int) -> Cadence:
    """Return the cadence that a schedule had at one of its versions."""
    definition = dict(row.definition)
    revisions = tx.execute(
        f"SELECT {given('changes')} AS changes FROM schedule_revisions WHERE schedule_id = ? AND version > ? "
        "ORDER BY version DESC",
        (row.id, version),
    )
    for revision in revisions:
        for key, change in json.loads(revision["changes"]).items():
            if key in CADENCE_KEYS and isinstance(change, list):
                definition[key] = change[0]
    return cadence_from(definition)


def add_revision(
    tx: Transaction,
    schedule_id: int,
    version: int,
    now: datetime,
    principal: str,
    action: str,
    changes: dict[str, Any] | None = None,
    note: str | None = None,
) -> None:
    """Record a change: who made it, when, what and why."""
    tx.execute(
        "INSERT INTO schedule_revisions (schedule_id, version, at, principal, action, changes, note) "
        "VALUES (?, ?, ?, ?, ?, ?, ?)",
        (schedule_id, version, format_instant(now), principal, action, json.dumps(changes or {}), note),
    )
