"""Rows of `fires`, the ledger: one row for each due time, or a summary for many that were not started."""

import sqlite3
from dataclasses import dataclass
from datetime import datetime

from daemon.model import DueTime, FireOutcome
from daemon.store.connection import Transaction
from daemon.units import format_instant, parse_instant


def is_recorded(tx: Transaction, schedule_id: int, due: DueTime) -> bool:
    """Return whether a due time has a row or is covered by a summary."""
    at = format_instant(due)
    found = tx.execute(
        "SELECT 1 FROM fires WHERE schedule_id = ?1 AND scheduled_for = ?2 UNION ALL "
        "SELECT 1 FROM fires WHERE schedule_id = ?1 AND covers_until >= ?2 AND scheduled_for <= ?2 LIMIT 1",
        (schedule_id, at),
    ).fetchone()
    return found is not None


def count_recorded(tx: Transaction, schedule_id: int, first: DueTime, last: DueTime) -> int:
    """Count the due times in first <= due <= last that have their own row or are covered by a summary."""
    row = tx.execute(
        "SELECT CAST(total(coalesce(covers_count, 1)) AS INTEGER) AS n FROM fires "
        "WHERE schedule_id = ? AND scheduled_for BETWEEN ? AND ?",
        (schedule_id, format_instant(first), format_instant(last)),
    ).fetchone()
    return int(row["n"])


def record_fire(
    tx: Transaction,
    schedule_id: int,
    due: DueTime,
    outcome: FireOutcome,
    now: datetime,
    *,
    run_id: int | None = None,
    reason: str | None = None,
) -> None:
    """Insert the row of one due time; raise sqlite3.IntegrityError if it already has one."""
    tx.execute(
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, run_id, decided_at) VALUES (?, ?, ?, ?, ?, ?)",
        (schedule_id, format_instant(due), outcome.value, reason, run_id, format_instant(now)),
    )
    tx.changes.fire(schedule_id, outcome)


@dataclass(frozen=True)
class Summary:
    """One row for many due times that were not started."""

    schedule_id: int
    first: DueTime
    last: DueTime
    count: int
    outcome: FireOutcome
    reason: str
    decided_at: str
    version: int | None
    """The version of the schedule whose cadence these due times follow; None in rows of old versions of agentcron."""


def summary_from(row: sqlite3.Row) -> Summary:
    """Return the Summary in a row of `fires`; raise ValueError or TypeError if somebody edited it badly."""
    return Summary(
        row["schedule_id"],
        DueTime(parse_instant(row["scheduled_for"])),
        DueTime(parse_instant(row["covers_until"])),
        int(row["covers_count"]),
        FireOutcome(row["outcome"]),
        row["reason"],
        row["decided_at"],
        row["schedule_version"],
    )


def summaries_beyond(tx: Transaction, now: datetime) -> list[sqlite3.Row]:
    """Return the rows of summaries that cover due times after now."""
    return tx.execute("SELECT * FROM fires WHERE covers_until > ?", (format_instant(now),)).fetchall()


def summary_over(tx: Transaction, schedule_id: int, due: DueTime) -> Summary | None:
    """Return the summary that covers a due time, None if there is none."""
    row = tx.execute(
        "SELECT * FROM fires WHERE schedule_id = ?1 AND covers_until >= ?2 AND scheduled_for <= ?2",
        (schedule_id, format_instant(due)),
    ).fetchone()
    return summary_from(row) if row else None


def summaries_between(tx: Transaction, schedule_id: int, first: datetime, last: datetime) -> list[Summary]:
    """Return the summaries that cover anything in first <= due <= last."""
    rows = tx.execute(
        "SELECT * FROM fires WHERE schedule_id = ? AND covers_until >= ? AND scheduled_for <= ?",
        (schedule_id, format_instant(first), format_instant(last)),
    )
    return [summary_from(row) for row in rows]


def unstarted_between(tx: Transaction, schedule_id: int, first: datetime, last: datetime) -> list[DueTime]:
    """Return the due times in first <= due <= last whose own rows have a `skipped_*` outcome."""
    rows = tx.execute(
        "SELECT scheduled_for FROM fires WHERE schedule_id = ? AND scheduled_for BETWEEN ? AND ? "
        "AND covers_until IS NULL AND outcome GLOB 'skipped_*'",
        (schedule_id, format_instant(first), format_instant(last)),
    )
    return [DueTime(parse_instant(row["scheduled_for"])) for row in rows]


def add_summary(tx: Transaction, summary: Summary) -> None:
    """Insert a summary; raise sqlite3.IntegrityError if its first due time already has a row."""
    tx.execute(
        "INSERT INTO fires (schedule_id, scheduled_for, outcome, reason, decided_at, covers_until, covers_count, "
        "schedule_version) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",
        (
            summary.schedule_id,
            format_instant(summary.first),
            summary.outcome.value,
            summary.reason,
            summary.decided_at,
            format_instant(summary.last),
            summary.count,
            summary.version,
        ),
    )


def shorten_summary(tx: Transaction, schedule_id: int, first: str, last: datetime, count: int) -> None:
    """Shorten the summary that starts at the due time `first` (UTC text)."""
    tx.execute(
        "UPDATE fires SET covers_until = ?, covers_count = ? "
        "WHERE schedule_id = ? AND scheduled_for = ? AND covers_until IS NOT NULL",
        (format_instant(last), count, schedule_id, first),
    )


def outcome_of(tx: Transaction, schedule_id: int, due: DueTime) -> FireOutcome | None:
    """Return the outcome in a due time's own row, None if it has none."""
    row = tx.execute(
        "SELECT outcome FROM fires WHERE schedule_id = ? AND scheduled_for = ? AND covers_until IS NULL",
        (schedule_id, format_instant(due)),
    ).fetchone()
    return FireOutcome(row["outcome"]) if row else None


def forget_fire(tx: Transaction, schedule_id: int, due: DueTime | str) -> None:
    """Remove the row of a due time (UTC text is taken as it is) that has not come, or that another row replaces."""
    at = due if isinstance(due, str) else format_instant(due)
    tx.execute("DELETE FROM fires WHERE schedule_id = ? AND scheduled_for = ?", (schedule_id, at))


def mark_launched(tx: Transaction, run_id: int) -> None:
    """Set the outcome of a buffered run's fire to `launched` when the run starts."""
    turned = tx.execute(
        "UPDATE fires SET outcome = 'launched' WHERE run_id = ? AND outcome = 'buffered' RETURNING schedule_id",
        (run_id,),
    ).fetchall()
    for row in turned:
        tx.changes.fire(row["schedule_id"], FireOutcome.LAUNCHED)


def mark_unstarted(tx: Transaction, run_id: int, outcome: FireOutcome, reason: str) -> None:
    """Set the outcome of the fire of a run that was dropped, unless the run has ever started."""
    turned = tx.execute(
        "UPDATE fires SET outcome = ?, reason = ? WHERE run_id = ? AND outcome IN ('buffered', 'launched') "
        "AND NOT EXISTS (SELECT 1 FROM runs r WHERE r.id = fires.run_id AND r.started_at IS NOT NULL) "
        "RETURNING schedule_id",
        (outcome.value, reason, run_id),
    ).fetchall()
    for row in turned:
        tx.changes.fire(row["schedule_id"], outcome)
