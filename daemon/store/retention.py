"""The SQL of retention: find and delete expired runs with all their rows, fires, and deleted schedules."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from daemon.model import RunStatus
from daemon.rules.retention import Cutoff, Fate, PastRun, RetentionPolicy, ranges
from daemon.store.connection import Transaction
from daemon.store.notifications import forget_problems
from daemon.units import format_instant, parse_instant

Source = Transaction | sqlite3.Connection

_RUN = (
    "SELECT r.id, r.agent, r.schedule_id, r.status, r.updated_at, "
    "coalesce(w.state = 'present', 0) AS has_workspace, coalesce(w.kept AND w.state = 'present', 0) AS is_kept "
    "FROM runs r LEFT JOIN workspaces w ON w.run_id = r.id"
)
_PLAIN = (  # ended runs of one attempt without a workspace
    "SELECT r.id, r.agent, r.schedule_id, r.updated_at FROM json_each(?) g JOIN runs r ON r.id = g.value "
    "WHERE r.completed_at IS NOT NULL AND r.previous_run_id IS NULL AND r.next_run_id IS NULL "
    "AND NOT EXISTS (SELECT 1 FROM runs o WHERE o.previous_run_id = r.id) "
    "AND NOT EXISTS (SELECT 1 FROM runs o WHERE o.next_run_id = r.id) "
    "AND NOT EXISTS (SELECT 1 FROM workspaces w WHERE w.run_id = r.id AND w.state = 'present')"
)
_GIVEN = "(SELECT value FROM json_each(?1))"
_OF_A_RUN = (
    "events",
    "steps",
    "hooks",
    "cancellation_flags",
    "trigger_keys",
    "start_keys",
    "run_notifications",
    "workspaces",
)
_OFFSET_MARGIN = "2 days"  # a time written with another UTC offset can look later by less than that


@dataclass
class Expired:
    """Which of some runs retention removes."""

    gone: list[int] = field(default_factory=list)
    """Runs to delete; attempts at one input are adjacent."""
    released: list[tuple[int, int]] = field(default_factory=list)
    """Runs whose workspaces must be removed first, as (lowest attempt, run)."""


def expirable(source: Source, after: int, before: Cutoff, limit: int) -> list[int]:
    """Return ended runs with numbers above `after` that may be older than a cutoff, lowest first."""
    rows = source.execute(
        "SELECT id FROM runs NOT INDEXED WHERE id > ? AND completed_at IS NOT NULL "
        f"AND updated_at < strftime('%Y-%m-%dT%H:%M:%fZ', ?, '+{_OFFSET_MARGIN}') ORDER BY id LIMIT ?",
        (after, before.text, limit),
    )
    return [row["id"] for row in rows]


def sort_out(source: Source, numbers: Sequence[int], policy: RetentionPolicy) -> Expired:
    """Return which of some ended runs expire; attempts at one input are decided together, at the lowest of them."""
    found = Expired()
    plain: set[int] = set()
    for number, agent, schedule_id, updated_at in source.execute(_PLAIN, (json.dumps(numbers),)):
        plain.add(number)
        if policy.has_expired(number, agent, schedule_id, updated_at):
            found.gone.append(number)
    seen = plain
    for number in numbers:
        if number not in seen:
            attempts = _attempts(source, number)
            seen |= {run.id for run in attempts}
            if attempts and attempts[0].id == number:
                _sort_out_attempts(attempts, policy, found)
    return found


def _sort_out_attempts(attempts: Sequence[PastRun], policy: RetentionPolicy, found: Expired) -> None:
    fate = policy.fate(attempts)
    if fate is Fate.GOES:
        found.gone += [run.id for run in attempts]
    elif fate is Fate.RELEASES:
        found.released += [(attempts[0].id, run.id) for run in attempts if run.has_workspace]


def _past(row: sqlite3.Row) -> PastRun:
    return PastRun(
        row["id"],
        row["agent"],
        row["schedule_id"],
        RunStatus(row["status"]),
        row["updated_at"],
        bool(row["has_workspace"]),
        bool(row["is_kept"]),
    )


def _attempts(source: Source, number: int) -> list[PastRun]:
    """Return all attempts at the input of a run, lowest first."""
    rows = source.execute(
        "WITH RECURSIVE attempt (id) AS (VALUES (?1) "
        "UNION SELECT r.previous_run_id FROM runs r JOIN attempt a ON r.id = a.id "
        "WHERE r.previous_run_id IS NOT NULL "
        "UNION SELECT r.next_run_id FROM runs r JOIN attempt a ON r.id = a.id WHERE r.next_run_id IS NOT NULL "
        "UNION SELECT r.id FROM runs r JOIN attempt a ON r.previous_run_id = a.id "
        "UNION SELECT r.id FROM runs r JOIN attempt a ON r.next_run_id = a.id) "
        f"{_RUN} WHERE r.id IN attempt ORDER BY r.id",
        (number,),
    )
    return [_past(row) for row in rows]


@dataclass(frozen=True)
class ExpiredRun:
    """An expired run, as reported to people."""

    id: int
    agent: str
    schedule: str | None
    updated_at: str


def expired_runs(source: Source, numbers: Sequence[int]) -> list[ExpiredRun]:
    """Return runs by their numbers."""
    rows = source.execute(
        "SELECT r.id, r.agent, s.name AS schedule, r.updated_at FROM runs r LEFT JOIN schedules s "
        f"ON s.id = r.schedule_id WHERE r.id IN {_GIVEN} ORDER BY r.id",
        (json.dumps(numbers),),
    )
    return [ExpiredRun(*row) for row in rows]


def delete_runs(tx: Transaction, numbers: Iterable[int]) -> None:
    """Delete runs and all their rows, in a transaction without foreign keys, which would check each of them."""
    spans = ranges(numbers)
    for table in _OF_A_RUN:
        tx.executemany(f"DELETE FROM {table} WHERE run_id BETWEEN ? AND ?", spans)
    tx.executemany("UPDATE fires SET run_id = NULL WHERE run_id BETWEEN ? AND ?", spans)
    tx.executemany("DELETE FROM runs WHERE id BETWEEN ? AND ?", spans)


def spared_from(source: Source, policy: RetentionPolicy) -> dict[int, int]:
    """Return the oldest run that `keep_last` spares, by schedule; 0 if the schedule has fewer runs than that."""
    found: dict[int, int] = {}
    for schedule in source.execute("SELECT id, agent FROM schedules").fetchall():
        count = policy.of(schedule["agent"]).keep_last
        if count > 0:
            row = source.execute(
                "SELECT id FROM runs WHERE schedule_id = ? AND completed_at IS NOT NULL "
                "ORDER BY id DESC LIMIT 1 OFFSET ?",
                (schedule["id"], count - 1),
            ).fetchone()
            found[schedule["id"]] = row["id"] if row else 0
    return found


def count_expirable(source: Source, before: Cutoff) -> int:
    """Return approximately how many ended runs are older than a cutoff."""
    row = source.execute(
        "SELECT count(*) AS n FROM runs WHERE completed_at IS NOT NULL AND updated_at < ?", (before.text,)
    ).fetchone()
    return int(row["n"])


def schedules_with_old_fires(source: Source, policy: RetentionPolicy) -> list[int]:
    """Return the schedules that may have fires older than their cutoff."""
    found = []
    for schedule in source.execute("SELECT id, agent FROM schedules ORDER BY id").fetchall():
        cutoff = policy.of(schedule["agent"]).cutoff
        if cutoff is not None and _old_fires(source, schedule["id"], "", cutoff, 1):
            found.append(schedule["id"])
    return found


@dataclass(frozen=True)
class PageOfFires:
    """A page of a schedule's expired fires."""

    due_times: list[str]
    until: str | None
    """The last due time that they cover, None if there are none."""
    then: str | None
    """Where the next page starts, None at the end."""


def expired_fires(source: Source, schedule_id: int, after: str, policy: RetentionPolicy, limit: int) -> PageOfFires:
    """Return the expired fires of a schedule among the next `limit` rows.

    A fire expires when its due time, the last one that it covers and its decision are all older than the cutoff. The
    fires of active runs stay, and so does the newest fire of a live schedule.
    """
    schedule = source.execute("SELECT agent, deleted_at FROM schedules WHERE id = ?", (schedule_id,)).fetchone()
    cutoff = policy.of(schedule["agent"]).cutoff if schedule else None
    if cutoff is None:
        return PageOfFires([], None, None)
    rows = _old_fires(source, schedule_id, after, cutoff, limit)
    newest = None
    if schedule["deleted_at"] is None:
        last = "SELECT max(scheduled_for) AS at FROM fires WHERE schedule_id = ?"
        newest = source.execute(last, (schedule_id,)).fetchone()["at"]
    expired = [
        row
        for row in rows
        if row["scheduled_for"] != newest
        and not row["is_active"]
        and all(cutoff.is_after(row[name]) for name in ("scheduled_for", "until", "decided_at"))
    ]
    until = max((parse_instant(row["until"]) for row in expired), default=None)
    return PageOfFires(
        [row["scheduled_for"] for row in expired],
        None if until is None else format_instant(until),
        rows[-1]["scheduled_for"] if len(rows) == limit else None,
    )


def _old_fires(source: Source, schedule_id: int, after: str, cutoff: Cutoff, limit: int) -> list[sqlite3.Row]:
    return source.execute(
        "SELECT scheduled_for, coalesce(covers_until, scheduled_for) AS until, decided_at, "
        "run_id IN (SELECT id FROM runs WHERE completed_at IS NULL) AS is_active FROM fires WHERE schedule_id = ? "
        f"AND scheduled_for > ? AND scheduled_for < strftime('%Y-%m-%dT%H:%M:%fZ', ?, '+{_OFFSET_MARGIN}') "
        "ORDER BY scheduled_for LIMIT ?",
        (schedule_id, after, cutoff.text, limit),
    ).fetchall()


def delete_fires(tx: Transaction, schedule_id: int, page: PageOfFires) -> None:
    """Delete expired fires of a schedule, and record up to where, so that none of them is started again."""
    tx.executemany(
        "DELETE FROM fires WHERE schedule_id = ? AND scheduled_for = ?", ((schedule_id, due) for due in page.due_times)
    )
    if page.until is not None:
        tx.execute(
            "UPDATE schedules SET purged_until = max(coalesce(purged_until, ''), ?) WHERE id = ?",
            (page.until, schedule_id),
        )


def purged_until(source: Source, schedule_id: int) -> datetime | None:
    """Return the last due time of a schedule whose fire retention deleted, None if there is none."""
    row = source.execute("SELECT purged_until AS at FROM schedules WHERE id = ?", (schedule_id,)).fetchone()
    return parse_instant(row["at"]) if row and row["at"] else None


def deleted_schedules(source: Source) -> list[int]:
    """Return the schedules that were deleted or removed from the config."""
    return [row["id"] for row in source.execute("SELECT id FROM schedules WHERE deleted_at IS NOT NULL ORDER BY id")]


def delete_remains(tx: Transaction, schedule_id: int, policy: RetentionPolicy) -> bool:
    """Delete a deleted schedule's expired revisions, then the schedule if nothing refers to it; return whether."""
    row = tx.execute("SELECT agent, deleted_at FROM schedules WHERE id = ?", (schedule_id,)).fetchone()
    cutoff = policy.of(row["agent"]).cutoff if row else None
    if cutoff is None or row["deleted_at"] is None:
        return False
    revisions = tx.execute("SELECT version, at FROM schedule_revisions WHERE schedule_id = ?", (schedule_id,))
    old = [revision["version"] for revision in revisions.fetchall() if cutoff.is_after(revision["at"])]
    tx.executemany(
        "DELETE FROM schedule_revisions WHERE schedule_id = ? AND version = ?", ((schedule_id, one) for one in old)
    )
    is_left = tx.execute(
        "SELECT EXISTS (SELECT 1 FROM runs WHERE schedule_id = ?1) "
        "OR EXISTS (SELECT 1 FROM fires WHERE schedule_id = ?1) "
        "OR EXISTS (SELECT 1 FROM schedule_revisions WHERE schedule_id = ?1) AS yes",
        (schedule_id,),
    ).fetchone()["yes"]
    if is_left or not cutoff.is_after(row["deleted_at"]):
        return False
    for table in ("schedule_skips", "trigger_keys", "sessions"):
        tx.execute(f"DELETE FROM {table} WHERE schedule_id = ?", (schedule_id,))
    forget_problems(tx, schedule_id)
    tx.execute("DELETE FROM schedules WHERE id = ?", (schedule_id,))
    return True


def database_bytes(source: Source) -> int:
    """Return the size of the database in bytes."""
    pages, size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def last_sweep(source: Source) -> datetime | None:
    """Return when the last retention sweep ran; if there was none, when the database was created."""
    row = source.execute("SELECT coalesce(swept_at, created_at) AS at FROM instance").fetchone()
    return parse_instant(row["at"]) if row else None


def note_sweep(tx: Transaction, now: datetime) -> None:
    """Record that a retention sweep ran."""
    tx.execute("UPDATE instance SET swept_at = ?", (format_instant(now),))
