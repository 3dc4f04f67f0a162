"""What people are told of, written down in the same transaction as what happened, so that neither is without the other.

An event is a JSON object with `id`, `event` (its kind), `at`, `host`, `text` (a sentence for people), `agent` and
`schedule` where it concerns one, and what else there is to know.
"""

import socket
import uuid
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from daemon.model import RunStatus
from daemon.rules.notifications import Audience, Standing, Told, next_standing
from daemon.store.connection import Transaction
from daemon.store.notifications import add_notification, set_standing, standing_of
from daemon.store.runs import Run
from daemon.units import format_instant

_BAD = {RunStatus.FAILED, RunStatus.INTERRUPTED}


@dataclass(frozen=True)
class Notice:
    """Something worth telling that happened outside of runs."""

    kind: str
    text: str
    agent: str | None = None
    schedule: str | None = None
    subject: str | None = None
    """What it is about, where it is told once only until that changes."""
    state: str | None = None
    """How that subject stands; None for well, which is not told."""
    details: dict[str, Any] = field(default_factory=dict)


def tell(tx: Transaction, audience: Audience, notices: Iterable[Notice], now: datetime) -> None:
    """Have notices sent to whom they concern, those about a known state at growing gaps only."""
    for notice in notices:
        if notice.subject is not None:
            _, _, told = _update_standing(tx, notice.subject, notice.state, now)
            if told is None or told is Told.RECOVERED:
                continue
        _send(tx, audience, notice, now)


def run_ended(
    tx: Transaction, audience: Audience, run: Run, status: RunStatus, error: str | None, now: datetime
) -> None:
    """Tell how the last attempt at an input ended, if that is news."""
    if status is RunStatus.COMPLETED:
        _send(tx, audience, _of_run(run, status, f"{_name(run)} completed (run {run.id})"), now)
    if run.schedule_id is None or status not in {RunStatus.COMPLETED, *_BAD}:
        return
    subject = f"schedule:{run.schedule_id}"
    known, standing, told = _update_standing(tx, subject, status if status in _BAD else None, now)
    if told is not None:
        tx.counts["news", subject] += 1
    if told is Told.RECOVERED and known is not None:
        text = f"{_name(run)} is well again after {known.count} bad run(s) (run {run.id})"
        _send(tx, audience, _of_run(run, status, text, kind="recovered", **_figures(known)), now)
    elif told is not None and standing is not None:
        details = {"error": error, **_figures(standing), "still": told is Told.STILL}
        text = _bad_news(run, status, error, standing, told)
        _send(tx, audience, _of_run(run, status, text, **details), now)


def _update_standing(
    tx: Transaction, subject: str, state: str | None, now: datetime
) -> tuple[Standing | None, Standing | None, Told | None]:
    """Record the state that a subject was found in; return how it stood, how it stands, and whether that is news."""
    known = standing_of(tx, subject)
    standing, told = next_standing(known, state, now)
    if standing != known:
        set_standing(tx, subject, standing)
    return known, standing, told


def _bad_news(run: Run, status: RunStatus, error: str | None, standing: Standing, told: Told) -> str:
    reason = f": {error}" if error else ""
    if told is Told.STILL:
        since = format_instant(standing.since)
        return f"{_name(run)} is still not well, {standing.count} bad runs since {since}; run {run.id} {status}{reason}"
    word = "was interrupted" if status is RunStatus.INTERRUPTED else "failed"
    return f"{_name(run)} {word} (run {run.id}){reason}"


def _figures(standing: Standing) -> dict[str, Any]:
    return {"bad_runs": standing.count, "since": format_instant(standing.since)}


def _of_run(run: Run, status: RunStatus, text: str, *, kind: str | None = None, **details: object) -> Notice:
    known = {
        "run_id": run.id,
        "status": str(status),
        "display_name": run.display_name,
        "scheduled_for": run.scheduled_for,
        "attempt": run.attempt,
    }
    return Notice(kind or str(status), text, run.agent, run.address, details={**known, **details})


def _name(run: Run) -> str:
    return run.address or run.agent


def _send(tx: Transaction, audience: Audience, notice: Notice, now: datetime) -> None:
    targets = audience.wanting(notice.kind, notice.agent)
    if not targets:
        return
    event = {
        "id": str(uuid.uuid4()),
        "event": notice.kind,
        "at": format_instant(now),
        "host": socket.gethostname(),
        "text": notice.text,
        "agent": notice.agent,
        "schedule": notice.schedule,
        **notice.details,
    }
    for target in targets:
        add_notification(tx, target, event, now)
