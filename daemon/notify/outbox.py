"""The outbox: writes a notification in the same transaction as the change that it reports.

A notification is a JSON object with `id`, `event` (its kind), `at`, `host`, `text` (a sentence for people, which begins
with the host), `agent` and `schedule` if it concerns one, and further details that depend on the kind. For a target
that wants answers, the end of a run has the beginning of the `answer`; `answers.complete` adds the rest when it is
sent.
"""

import contextlib
import socket
import uuid
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from daemon.agents.base import Outcome
from daemon.config.live import LiveConfig
from daemon.errors import StoreUnavailableError
from daemon.model import FailureKind, RunStatus
from daemon.notify.missed import Missed, earlier_part, summed_up, text_of
from daemon.rules.budget import owner_name
from daemon.rules.notifications import NotifyReason, Standing, Target, is_silent, next_standing
from daemon.rules.reported import usage_of
from daemon.store.connection import Transaction
from daemon.store.home import Home
from daemon.store.notifications import (
    add_notification,
    agent_subject,
    budget_warning_subject,
    failing_subject,
    has_failed_later,
    held_notification,
    replace_held,
    set_standing,
    standing_of,
)
from daemon.store.run_notifications import begin_notification, silence_notification
from daemon.store.runs import Run
from daemon.store.spending import Spending
from daemon.text import escape, plural
from daemon.units import format_instant

_BAD = {RunStatus.FAILED, RunStatus.INTERRUPTED}
_NEVER = datetime.min.replace(tzinfo=UTC)
_LONGEST_HOLD = timedelta(minutes=1)
_LONGEST_HOST = 64
"""Characters of the host's name, escaped; Linux allows as many bytes, of any value."""


@dataclass(frozen=True)
class Notice:
    """Something to report to the targets that want to know."""

    kind: str
    text: str
    agent: str | None = None
    schedule: str | None = None
    subject: str | None = None
    """What the notice is about, if only changes of its state are reported."""
    state: str | None = None
    """The state of the subject; None means healthy, which is not reported."""
    once: bool = False
    """Whether an unchanged state is not repeated, whatever time has passed."""
    details: dict[str, Any] = field(default_factory=dict)
    run_id: int | None = None
    """The run whose end it reports."""
    answer: dict[str, str | None] = field(default_factory=dict)
    """What only targets get that want answers: the key `answer`, unless the agent wants nobody to get it."""
    pool: str | None = None
    """A pool that agents share, so that it is about all of them; None if it is about one agent or none."""


class Outbox:
    """Writes notifications for the targets that the config in force names."""

    def __init__(self, live: LiveConfig) -> None:
        self._live = live
        self._holds_until = _NEVER
        """Until when notifications of missed due times may be held, so that more can be added."""

    def add(self, tx: Transaction, notices: Iterable[Notice], now: datetime) -> None:
        """Queue notices for the targets that want them; an unchanged state is repeated only at growing intervals."""
        for notice in notices:
            if notice.subject is not None:
                _, _, news = _update_standing(tx, notice.subject, notice.state, now)
                if news in {NotifyReason.CHANGED, NotifyReason.RECOVERED}:
                    tx.changes.count("health", notice.subject)
                if news is None or news is NotifyReason.RECOVERED or (notice.once and news is NotifyReason.STILL):
                    continue
            self._send(tx, notice, now)

    def add_missed(self, tx: Transaction, missed: Sequence[Missed], now: datetime, *, more: bool) -> None:
        """Queue one notification for each target about the due times that its schedules missed.

        With `more`, another transaction may add to it: it is held until one comes without, for a minute at most.
        """
        held_before = now < self._holds_until
        if not missed and (more or not held_before):
            return
        until = now + _LONGEST_HOLD if more else now
        if more:  # only ever later, because a transaction may be repeated
            self._holds_until = max(self._holds_until, until)
        for target in self._live.audience.wanting_any("missed"):
            wanted = [one for one in missed if target.wants("missed", one.agent)]
            number, before = held_notification(tx, target.name, now) if held_before else (0, {})
            earlier = earlier_part(before)
            if wanted:
                details = summed_up(earlier, wanted)
                event = _event("missed", text_of(details), details, now)
                if earlier is None:
                    add_notification(tx, target.name, event, now, until)
                else:
                    replace_held(tx, target.name, number, event, until)
            elif earlier is not None and not more:
                replace_held(tx, target.name, number, before, now)

    def warn_of_budgets(self, tx: Transaction, agent: str, now: datetime, spending: Spending | None = None) -> None:
        """Queue a notice, once a day, of each budget that is nearly spent and that runs of an agent count towards.

        `spending` is what the transaction already knows of it.
        """
        spending = spending or Spending(tx, self._live.budgets, now)
        for owner, figures in spending.nearly_spent(agent):
            subject, day = budget_warning_subject(owner), format_instant(spending.day[0])
            if (known := standing_of(tx, subject)) is not None and known.state == day:
                continue
            text = f"the daily budget of {owner_name(owner)} is nearly spent: {figures}"
            tx.changes.count("budget", text)
            self.add(tx, [Notice("budget", text, owner, subject=subject, state=day)], now)

    async def post(self, home: Home, notices: Iterable[Notice]) -> None:
        """Add notices in their own transaction; they are lost if the database cannot be written now."""
        with contextlib.suppress(StoreUnavailableError):  # the log reports it often enough
            await home.database.write(lambda tx: self.add(tx, notices, home.now()))

    def add_run_end(self, tx: Transaction, run: Run, outcome: Outcome, now: datetime, *, paused: bool = False) -> None:
        """Add a notice of how a run without further attempts ended, if that is news.

        A run that completed after one with a later due time failed, for example a backfill, is no recovery. A failure
        that paused its schedule is always news, since nothing starts until a person resumes it. An agent that wants
        nobody to be notified is heard if its run completed; that its schedule recovered is reported nevertheless.
        """
        status = outcome.status
        if status is RunStatus.COMPLETED:
            self._add_completion(tx, run, outcome, now)
        if status not in {RunStatus.COMPLETED, *_BAD}:
            return
        subject = _subject(run)
        before = standing_of(tx, subject) if status is RunStatus.COMPLETED else None
        if before is not None and has_failed_later(tx, run, before.since, now):
            return
        known, standing, news = _update_standing(tx, subject, status if status in _BAD else None, now)
        if news is not None:
            tx.changes.count("health", subject)
        if news is NotifyReason.RECOVERED and known is not None:
            text = f"{_name(run)} recovered after {plural(known.count, 'failed run')} (run {run.id})"
            self._send(tx, _of_run(run, outcome, text, kind="recovered", **_figures(known)), now)
        elif (news is not None or paused) and standing is not None:
            figures = {**_figures(standing), "still": news is NotifyReason.STILL, "paused": paused}
            text = _failure_text(run, outcome, standing, news)
            if paused:
                text += f"; its schedule is paused until `agentcron schedules resume {run.address}`"
            self._send(tx, _of_run(run, outcome, text, error=outcome.error, **figures), now)

    def _add_completion(self, tx: Transaction, run: Run, outcome: Outcome, now: datetime) -> None:
        notice = _of_run(run, outcome, f"{_name(run)} completed (run {run.id})")
        if _is_quiet(outcome):
            for target in self._live.audience.wanting(notice.kind, run.agent):
                silence_notification(tx, run.id, target.name, notice.kind, now)
        else:
            self._send(tx, notice, now)

    def _targets(self, notice: Notice) -> list[Target]:
        audience = self._live.audience
        if notice.pool is None:
            return audience.wanting(notice.kind, notice.agent)
        sharing = [name for name, agent in self._live.config.agents.items() if notice.pool in agent.pools]
        return audience.wanting_one_of(notice.kind, sharing)

    def _send(self, tx: Transaction, notice: Notice, now: datetime) -> None:
        targets = self._targets(notice)
        if not targets:
            return
        details = {"agent": notice.agent, "schedule": notice.schedule, **notice.details}
        event = _event(notice.kind, notice.text, details, now)
        for target in targets:
            sent = {**event, **notice.answer} if target.wants_answer else event
            number = add_notification(tx, target.name, sent, now)
            if notice.run_id is not None:
                begin_notification(tx, notice.run_id, target.name, notice.kind, now, number)


def _event(kind: str, text: str, details: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return what is sent; `details` begin with agent and schedule."""
    host = host_name()
    return {
        "id": str(uuid.uuid4()),
        "event": kind,
        "at": format_instant(now),
        "host": host,
        "text": f"{host}: {text}",
        **details,
    }


def host_name() -> str:
    """Return the name of this host as notifications show it: escaped, at most 64 characters."""
    return escape(socket.gethostname())[:_LONGEST_HOST]


def _update_standing(
    tx: Transaction, subject: str, state: str | None, now: datetime
) -> tuple[Standing | None, Standing | None, NotifyReason | None]:
    """Record the state of a subject; return its previous standing, its new one, and the reason to notify."""
    known = standing_of(tx, subject)
    standing, news = next_standing(known, state, now)
    if standing != known:
        set_standing(tx, subject, standing)
    return known, standing, news


def _is_quiet(outcome: Outcome) -> bool:
    """Return whether the agent wants nobody to be notified, which counts only if its run completed."""
    return outcome.status is RunStatus.COMPLETED and (outcome.quiet or is_silent(outcome.message))


def _failure_text(run: Run, outcome: Outcome, standing: Standing, news: NotifyReason | None) -> str:
    status, reason = outcome.status, f": {outcome.error}" if outcome.error else ""
    if news is NotifyReason.STILL:
        failed, since = plural(standing.count, "failed run"), format_instant(standing.since)
        return f"{_name(run)} is still failing, {failed} since {since}; run {run.id} {status}{reason}"
    word = "was interrupted" if status is RunStatus.INTERRUPTED else "failed"
    return f"{_name(run)} {word} (run {run.id}){reason}"


def _figures(standing: Standing) -> dict[str, Any]:
    return {"bad_runs": standing.count, "since": format_instant(standing.since)}


def _of_run(run: Run, outcome: Outcome, text: str, *, kind: str | None = None, **details: object) -> Notice:
    status = outcome.status
    known = {
        "run_id": run.id,
        "status": str(status),
        "display_name": run.display_name,
        "scheduled_for": run.scheduled_for,
        "attempt": run.attempt,
        "cost_usd": usage_of(outcome.usage)[0].get("cost_usd"),
    }
    if status is RunStatus.FAILED:
        known["failure_kind"] = outcome.kind or FailureKind.FAILED
    answer = {} if _is_quiet(outcome) else {"answer": outcome.message}
    details = {**known, **details}
    return Notice(kind or str(status), text, run.agent, run.address, details=details, run_id=run.id, answer=answer)


def _subject(run: Run) -> str:
    """Return what the end of a run is news of: its schedule, or its agent for all runs without a schedule."""
    return agent_subject(run.agent) if run.schedule_id is None else failing_subject(run.schedule_id)


def _name(run: Run) -> str:
    return run.address or run.agent
