"""What retention reads and deletes: runs with all that belongs to them, fires, and deleted schedules."""

import json
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime

from daemon.model import RunStatus
from daemon.rules.retention import Cutoff, Fate, PastRun, RetentionPolicy, ranges
from daemon.store.connection import Transaction
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
_OF_A_RUN = ("events", "steps", "hooks", "cancellation_flags", "trigger_keys", "workspaces")
_ODD = "2 days"  # by which a time with another offset can be written later than it is


@dataclass
class Expired:
    """What of some runs goes."""

    gone: list[int] = field(default_factory=list)
    """Runs that are deleted, attempts at one input beside each other."""
    released: list[tuple[int, int]] = field(default_factory=list)
    """Runs whose workspaces have to go first, each with the lowest of its attempts."""


def expirable(source: Source, after: int, before: Cutoff, limit: int) -> list[int]:
    """Return ended runs above a number that may be older than a cutoff, lowest first."""
    rows = source.execute(
        "SELECT id FROM runs NOT INDEXED WHERE id > ? AND completed_at IS NOT NULL "
        f"AND updated_at < strftime('%Y-%m-%dT%H:%M:%fZ', ?, '+{_ODD}') ORDER BY id LIMIT ?",
        (after, before.text, limit),
    )
    return [row["id"] for row in rows]


def sort_out(source: Source, numbers: Sequence[int], policy: RetentionPolicy) -> Expired:
    """Return what of some ended runs goes; attempts at one input are looked at with the lowest of them."""
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
    """Return all runs that hang together with a run as attempts, lowest first."""
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
    """A run that goes, as people are told of it."""

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
    """Delete runs and all their rows; for a transaction without foreign keys, which would look for each of them."""
    spans = ranges(numbers)
    for table in _OF_A_RUN:
        tx.executemany(f"DELETE FROM {table} WHERE run_id BETWEEN ? AND ?", spans)
    tx.executemany("UPDATE fires SET run_id = NULL WHERE run_id BETWEEN ? AND ?", spans)
    tx.executemany("DELETE FROM runs WHERE id BETWEEN ? AND ?", spans)


def spared_from(source: Source, policy: RetentionPolicy) -> dict[int, int]:
    """Return for each schedule whose newest ended runs stay the oldest of these; less, if it has no more."""
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
    """Return about how many ended runs are older than a cutoff."""
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
    """Some of the expired fires of a schedule."""

    due_times: list[str]
    until: str | None
    """The last due time that they cover."""
    then: str | None
    """Where to go on, None at the end."""


def expired_fires(source: Source, schedule_id: int, after: str, policy: RetentionPolicy, limit: int) -> PageOfFires:
    """Return the expired fires of a schedule among so many rows.

    A fire expires when its due time, the last one that it covers and its decision are older than the cutoff. That of an
    active run stays, and of a live schedule the newest.
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
        f"AND scheduled_for > ? AND scheduled_for < strftime('%Y-%m-%dT%H:%M:%fZ', ?, '+{_ODD}') "
        "ORDER BY scheduled_for LIMIT ?",
        (schedule_id, after, cutoff.text, limit),
    ).fetchall()


def delete_fires(tx: Transaction, schedule_id: int, page: PageOfFires) -> None:
    """Delete expired fires of a schedule, which remembers up to where: none of them is started a second time."""
    tx.executemany(
        "DELETE FROM fires WHERE schedule_id = ? AND scheduled_for = ?", ((schedule_id, due) for due in page.due_times)
    )
    if page.until is not None:
        tx.execute(
            "UPDATE schedules SET purged_until = max(coalesce(purged_until, ''), ?) WHERE id = ?",
            (page.until, schedule_id),
        )


def purged_until(source: Source, schedule_id: int) -> datetime | None:
    """Return the last due time of a schedule whose fire was deleted."""
    row = source.execute("SELECT purged_until AS at FROM schedules WHERE id = ?", (schedule_id,)).fetchone()
    return parse_instant(row["at"]) if row and row["at"] else None


def deleted_schedules(source: Source) -> list[int]:
    """Return the schedules that people deleted or took out of the config."""
    return [row["id"] for row in source.execute("SELECT id FROM schedules WHERE deleted_at IS NOT NULL ORDER BY id")]


def delete_remains(tx: Transaction, schedule_id: int, policy: RetentionPolicy) -> bool:
    """Delete the expired revisions of a deleted schedule, and itself if nothing is left; return whether it went."""
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
    for table in ("schedule_skips", "trigger_keys"):
        tx.execute(f"DELETE FROM {table} WHERE schedule_id = ?", (schedule_id,))
    tx.execute("DELETE FROM notify_states WHERE subject = ?", (f"schedule:{schedule_id}",))
    tx.execute("DELETE FROM schedules WHERE id = ?", (schedule_id,))
    return True


def database_bytes(source: Source) -> int:
    """Return how large the database is."""
    pages, size = (source.execute(f"PRAGMA {name}").fetchone()[0] for name in ("page_count", "page_size"))
    return int(pages) * int(size)


def last_sweep(source: Source) -> datetime | None:
    """Return when retention last swept; of a database in which it never did, when that began."""
    row = source.execute("SELECT coalesce(swept_at, created_at) AS at FROM instance").fetchone()
    return parse_instant(row["at"]) if row else None


def note_sweep(tx: Transaction, now: datetime) -> None:
    """Note that retention swept."""
    tx.execute("UPDATE instance SET swept_at = ?", (format_instant(now),))
