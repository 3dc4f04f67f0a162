"""Decides which session of its agent a run goes on with, and keeps it for the next run of the schedule.

Both happen in the transaction that claims a run or records its end. So two runs never share a session, even if the
daemon is killed at any moment: while a run that holds its schedule's session is active, others begin one of their own,
which nobody continues.
"""

from datetime import datetime

from daemon.agents.base import Outcome, RunSettings
from daemon.model import RunStatus
from daemon.rules.sessions import Conversation, why_new
from daemon.store.connection import Transaction
from daemon.store.events import SESSION_BEGUN, SESSION_CHANGED, SESSION_CONTINUED, SESSION_REFUSED, add_event
from daemon.store.runs import Run
from daemon.store.sessions import ScheduleSession, held_session, hold_session, keep_session, session_of
from daemon.units import parse_instant

_KINDS = {"command", "acp"}  # of agents that can continue a session


def choose_session(tx: Transaction, run: Run, settings: RunSettings, now: datetime) -> str | None:
    """Return the session that a run goes on with, which is claimed now; None if it begins one, or its own affair."""
    if run.schedule_id is None or settings.kind not in _KINDS:
        return None
    found = session_of(tx, run.schedule_id)
    if found is None:
        return None
    if found.holder is not None:
        reason = f"run {found.holder} works in that of the schedule; no other run continues this one"
        add_event(tx, run.id, now, SESSION_BEGUN, {"reason": reason})
        return None
    hold_session(tx, run.schedule_id, run.id)
    reason_for_new = why_new(found.conversation, found.limits, now)
    if found.conversation is None or reason_for_new is not None:
        add_event(tx, run.id, now, SESSION_BEGUN, {"reason": reason_for_new})
        return None
    add_event(tx, run.id, now, SESSION_CONTINUED, {"session": found.conversation.session})
    return found.conversation.session


def record_session(tx: Transaction, run: Run, outcome: Outcome, now: datetime) -> None:
    """Note what became of the session that a run was given, and keep the one that the next run continues.

    Only a run that completed says which one that is. One that was refused is not tried again.
    """
    if outcome.session_refused is not None:
        add_event(tx, run.id, now, SESSION_REFUSED, {"reason": outcome.session_refused})
    found = held_session(tx, run.id, run.schedule_id) if run.schedule_id is not None else None
    if found is None or run.schedule_id is None:
        return
    goes_on = run.resumed_session is not None and outcome.session_refused is None
    if goes_on and outcome.session not in {None, run.resumed_session}:
        add_event(tx, run.id, now, SESSION_CHANGED, {"from": run.resumed_session, "to": outcome.session})
    if outcome.status is RunStatus.COMPLETED:
        keep_session(tx, run.schedule_id, _next(run, outcome, found, goes_on=goes_on))
    elif outcome.session_refused is not None:
        keep_session(tx, run.schedule_id, None)


def _next(run: Run, outcome: Outcome, found: ScheduleSession, *, goes_on: bool) -> Conversation | None:
    """Return the session in which a run completed, None if its agent told none."""
    session = outcome.session or (run.resumed_session if goes_on else None)
    if session is None:
        return None
    if goes_on and found.conversation is not None:
        return Conversation(session, found.conversation.begun_at, found.conversation.runs + 1)
    return Conversation(session, parse_instant(run.started_at or run.created_at), 1)
