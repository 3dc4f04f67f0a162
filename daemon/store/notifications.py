"""Rows of `notifications` (events still to be sent) and of `notify_states` (known problems)."""

import json
import sqlite3
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

from daemon.rules.notifications import Standing
from daemon.store.connection import Transaction
from daemon.store.rows import given
from daemon.store.run_notifications import drop_run_notifications
from daemon.store.runs import Run
from daemon.units import format_instant, parse_instant

PAUSED_BY_FAILURE = "(pause_on_failure)"
"""The end of the note of a schedule that was paused by a failed run, until a person pauses it with another note."""
_SELECT = f"SELECT id, target, {given('event')} AS event, created_at, tries, next_try_at FROM notifications"
_LONGEST_GAP = timedelta(days=36500)
_MOST_COMPARED = 1000
"""Runs of a schedule, newest first, among which a later failure is looked for."""
_MOST_COUNTED = 10**12


@dataclass(frozen=True)
class Notification:
    """One event for one target."""

    id: int
    target: str
    event: dict[str, Any]
    created_at: datetime
    tries: int
    next_try_at: datetime
    content: str
    """The event as it is stored: another one may take its place while this one is sent."""


def add_notification(
    tx: Transaction, target: str, event: dict[str, Any], now: datetime, held_until: datetime | None = None
) -> int:
    """Queue an event for a target, and return its number; one that is held is not sent before that instant."""
    added = tx.execute(
        "INSERT INTO notifications (target, event, created_at, next_try_at) VALUES (?, ?, ?, ?)",
        (target, json.dumps(event), format_instant(now), format_instant(held_until or now)),
    )
    tx.changes.count("notification", target)
    return int(added.lastrowid or 0)


def held_notification(tx: Transaction, target: str, now: datetime) -> tuple[int, dict[str, Any]]:
    """Return number and event of the newest notification that is held for a target; an empty event if none is."""
    row = tx.execute(
        f"{_SELECT} WHERE target = ? AND tries = 0 AND next_try_at > ? ORDER BY id DESC LIMIT 1",
        (target, format_instant(now)),
    ).fetchone()
    try:
        return (0, {}) if row is None else (row["id"], _notification_from(row).event)
    except (ValueError, TypeError, RecursionError):  # it is dropped when its turn comes
        return 0, {}


def replace_held(tx: Transaction, target: str, number: int, event: dict[str, Any], held_until: datetime) -> None:
    """Replace the event of a notification that is held, and set how long it still is."""
    tx.execute(
        "UPDATE notifications SET event = ?, next_try_at = ? WHERE id = ?",
        (json.dumps(event), format_instant(held_until), number),
    )
    tx.changes.count("notification", target)


def first_of_each(connection: sqlite3.Connection) -> tuple[list[Notification], list[tuple[int, str]]]:
    """Return the next event for each target, and number and target of those whose rows are damaged.

    Events are sent in order.
    """
    rows = connection.execute(f"{_SELECT} WHERE id IN (SELECT min(id) FROM notifications GROUP BY target)")
    found: list[Notification] = []
    damaged: list[tuple[int, str]] = []
    for row in rows:
        try:
            found.append(_notification_from(row))
        except (ValueError, TypeError, RecursionError):
            damaged.append((row["id"], row["target"]))
    return found, damaged


def _notification_from(row: sqlite3.Row) -> Notification:
    """Return the Notification in a row; raise ValueError, TypeError or RecursionError for a damaged one."""
    event = json.loads(row["event"])
    if not isinstance(event, dict):
        raise TypeError("the event is not a JSON object")
    created_at, next_try_at = parse_instant(row["created_at"]), parse_instant(row["next_try_at"])
    return Notification(row["id"], row["target"], event, created_at, row["tries"], next_try_at, row["event"])


def remove_notification(tx: Transaction, number: int, content: str | None = None) -> None:
    """Delete a notification that was sent or given up, unless its event is no longer the one with this content."""
    tx.execute("DELETE FROM notifications WHERE id = ?1 AND event = coalesce(?2, event)", (number, content))


def drop_notifications(tx: Transaction, reason: str, now: datetime) -> int:
    """Delete all notifications that wait to be sent, and record why with their runs; return how many."""
    drop_run_notifications(tx, reason, now)
    return tx.execute("DELETE FROM notifications").rowcount


def put_off_notification(tx: Transaction, number: int, until: datetime) -> None:
    """Count a failed attempt, and postpone the next one until the given time."""
    tx.execute(
        "UPDATE notifications SET tries = tries + 1, next_try_at = ? WHERE id = ?", (format_instant(until), number)
    )


def standing_of(tx: Transaction, subject: str) -> Standing | None:
    """Return the known problem of a subject, None if it is healthy or its row is damaged."""
    row = tx.execute("SELECT * FROM notify_states WHERE subject = ?", (subject,)).fetchone()
    if row is None:
        return None
    try:
        since, told_at = parse_instant(row["since"]), parse_instant(row["told_at"])
        gap = min(timedelta(milliseconds=row["gap_ms"]), _LONGEST_GAP)
    except (ValueError, OverflowError):  # the row is damaged: report the problem anew
        return None
    return Standing(row["state"], since, min(row["count"], _MOST_COUNTED), told_at, gap)


def set_standing(tx: Transaction, subject: str, standing: Standing | None) -> None:
    """Store the problem of a subject; None means healthy."""
    if standing is None:
        tx.execute("DELETE FROM notify_states WHERE subject = ?", (subject,))
        return
    tx.execute(
        "INSERT OR REPLACE INTO notify_states (subject, state, since, count, told_at, gap_ms) "
        "VALUES (?, ?, ?, ?, ?, ?)",
        (
            subject,
            standing.state,
            format_instant(standing.since),
            standing.count,
            format_instant(standing.told_at),
            standing.gap // timedelta(milliseconds=1),
        ),
    )


def known_subjects(connection: sqlite3.Connection, kind: str) -> list[str]:
    """Return the subjects of the known problems that begin with `kind`, as in `quota:`."""
    rows = connection.execute("SELECT subject FROM notify_states WHERE substr(subject, 1, ?) = ?", (len(kind), kind))
    return [row["subject"] for row in rows]


def has_failed_later(tx: Transaction, run: Run, since: datetime, now: datetime) -> bool:
    """Return whether a run of the same schedule with a later due time failed or was interrupted since an instant.

    For a run without a schedule, those of its agent without a schedule count. Due times after now do not: the clock was
    ahead when they were recorded.
    """
    row = tx.execute(
        "SELECT 1 FROM (SELECT * FROM runs WHERE schedule_id IS ?1 AND agent = ?2 ORDER BY id DESC LIMIT ?7) "
        "WHERE status IN ('failed', 'interrupted') AND updated_at >= ?5 AND scheduled_for <= ?6 "
        "AND (scheduled_for, id) > (?3, ?4) LIMIT 1",
        (
            *(run.schedule_id, run.agent, run.scheduled_for, run.id),
            *(format_instant(since), format_instant(now), _MOST_COMPARED),
        ),
    ).fetchone()
    return row is not None


def failing_subject(schedule_id: int) -> str:
    """Return the subject of the problem that a schedule's last run failed or was interrupted."""
    return f"schedule:{schedule_id}"


def agent_subject(agent: str) -> str:
    """Return what the ends of an agent's runs without a schedule are news of."""
    return f"agent:{agent}"


def blocked_subject(schedule_id: int) -> str:
    """Return the subject of the problem that a schedule can start nothing."""
    return f"blocked:{schedule_id}"


def budget_subject(agent: str | None) -> str:
    """Return the subject of the problem that the budget of an agent, or (None) of the host, is exhausted."""
    return f"budget:{agent or ''}"


def budget_warning_subject(agent: str | None) -> str:
    """Return what a warning that a budget is nearly spent is about: an agent's, or (None) that of the host."""
    return f"budget-warning:{agent or ''}"


def forget_problems(tx: Transaction, schedule_id: int) -> None:
    """Forget the known problems of a schedule that was deleted."""
    subjects = failing_subject(schedule_id), blocked_subject(schedule_id)
    tx.execute("DELETE FROM notify_states WHERE subject IN (?, ?)", subjects)


def forget_agents(tx: Transaction, agents: Collection[str]) -> None:
    """Forget the known problems of all agents but these."""
    subjects = [agent_subject(agent) for agent in agents]
    subjects += [
        subject_of(agent) for agent in (*agents, None) for subject_of in (budget_subject, budget_warning_subject)
    ]
    tx.execute(
        "DELETE FROM notify_states "
        "WHERE (subject GLOB 'agent:*' OR subject GLOB 'budget:*' OR subject GLOB 'budget-warning:*') "
        "AND subject NOT IN (SELECT value FROM json_each(?))",
        (json.dumps(subjects),),
    )


def blocked_states(tx: Transaction) -> list[tuple[int, str, str, str]]:
    """Return number, agent, creator and state of the live schedules that are known to be able to start nothing."""
    rows = tx.execute(
        "SELECT s.id, s.agent, s.creator, n.state FROM notify_states n JOIN schedules s "
        "ON s.id = CAST(substr(n.subject, 9) AS INTEGER) WHERE n.subject GLOB 'blocked:*' AND s.deleted_at IS NULL"
    )
    return [(row["id"], row["agent"], row["creator"], row["state"]) for row in rows]


def is_denied(connection: sqlite3.Connection, schedule_id: int) -> bool:
    """Return whether the creator of a schedule is known to have lost the right to start its agent."""
    subject = blocked_subject(schedule_id)
    row = connection.execute("SELECT state FROM notify_states WHERE subject = ?", (subject,)).fetchone()
    return row is not None and row["state"] == "denied"


def failing_schedules(connection: sqlite3.Connection) -> list[tuple[str, str]]:
    """Return agent and address of the live schedules that fail or can start nothing.

    Those fail whose last run failed or was interrupted.

    Omit those that a person paused, who knows about them already, but not those that `pause_on_failure` paused.
    """
    rows = connection.execute(
        "SELECT DISTINCT s.agent, s.name FROM notify_states n JOIN schedules s "
        "ON n.subject IN ('schedule:' || s.id, 'blocked:' || s.id) "
        "WHERE s.deleted_at IS NULL AND (s.paused = 0 OR s.pause_note LIKE '%' || ?) "
        "ORDER BY s.agent, s.name",
        (PAUSED_BY_FAILURE,),
    )
    return [(row["agent"], f"{row['agent']}/{row['name']}") for row in rows]


def paused_by_failure(connection: sqlite3.Connection, agents: str | None, limit: int) -> list[dict[str, str]]:
    """Return address, time of the pause and note of the live schedules that a failed run paused, newest first.

    `agents` is a JSON list of the agents that count, None: all.
    """
    rows = connection.execute(
        "SELECT agent || '/' || name AS schedule, paused_at, pause_note AS note FROM schedules "
        "WHERE deleted_at IS NULL AND paused = 1 AND pause_note LIKE '%' || ?1 "
        "AND (?2 IS NULL OR agent IN (SELECT value FROM json_each(?2))) ORDER BY paused_at DESC, id LIMIT ?3",
        (PAUSED_BY_FAILURE, agents, limit),
    )
    return [dict(row) for row in rows]
