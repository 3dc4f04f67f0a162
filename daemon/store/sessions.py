"""Rows of `sessions`: the session that the runs of a schedule share, and which run goes on with it."""

import sqlite3
from dataclasses import dataclass
from datetime import timedelta

from daemon.rules.sessions import Conversation, SessionLimits
from daemon.store.connection import Transaction
from daemon.store.rows import row_of
from daemon.units import format_instant, parse_instant


@dataclass(frozen=True)
class ScheduleSession:
    """What a schedule whose runs share a session wants, and where that session stands."""

    limits: SessionLimits
    conversation: Conversation | None
    """None before a run has completed in one."""
    holder: int | None
    """The active run that goes on with it."""


def session_of(source: Transaction | sqlite3.Connection, schedule_id: int) -> ScheduleSession | None:
    """Return the session of a schedule, None if its runs do not share one; raise DamagedRowError."""
    row = source.execute(
        "SELECT c.session_max_age_ms, c.session_max_runs, s.session, s.begun_at, s.runs, r.id AS holder "
        "FROM schedules c LEFT JOIN sessions s ON s.schedule_id = c.id "
        "LEFT JOIN runs r ON r.id = s.holder AND r.status IN ('running', 'suspended') "
        "WHERE c.id = ? AND c.session = 'continue'",
        (schedule_id,),
    ).fetchone()
    if row is None:
        return None
    with row_of(f"the session of schedule {schedule_id}"):
        age, most = row["session_max_age_ms"], row["session_max_runs"]
        limits = SessionLimits(None if age is None else timedelta(milliseconds=age), most)
        return ScheduleSession(limits, _conversation(row), row["holder"])


def _conversation(row: sqlite3.Row) -> Conversation | None:
    if row["session"] is None:
        return None
    return Conversation(row["session"], parse_instant(row["begun_at"]), row["runs"])


def hold_session(tx: Transaction, schedule_id: int, run_id: int) -> None:
    """Let a run go on with the session of its schedule, or begin it."""
    tx.execute(
        "INSERT INTO sessions (schedule_id, holder) VALUES (?, ?) "
        "ON CONFLICT (schedule_id) DO UPDATE SET holder = excluded.holder",
        (schedule_id, run_id),
    )


def held_session(tx: Transaction, run_id: int, schedule_id: int) -> ScheduleSession | None:
    """Return the session of a schedule if an active run holds it, None otherwise."""
    found = session_of(tx, schedule_id)
    return found if found is not None and found.holder == run_id else None


def keep_session(tx: Transaction, schedule_id: int, conversation: Conversation | None) -> None:
    """Record which session the next run of a schedule continues; None: none."""
    kept = conversation
    values = (None, None, 0) if kept is None else (kept.session, format_instant(kept.begun_at), kept.runs)
    tx.execute("UPDATE sessions SET session = ?, begun_at = ?, runs = ? WHERE schedule_id = ?", (*values, schedule_id))


def forget_session(tx: Transaction, schedule_id: int) -> None:
    """Let the next run of a schedule begin a new session."""
    tx.execute("DELETE FROM sessions WHERE schedule_id = ?", (schedule_id,))
