"""The decision of due times: each that has come gets its one row of the ledger, and a run where it is to have one.

Two kinds of due times are told apart. Those of a gap lie before what the daemon, had it been there, would have
decided: it was stopped, or the host slept. They are decided first. The catch-up policy picks the few among them that
are started after all, and everything before the first of these is skipped in one go, since a gap of a year may hold
millions: by a row each while they are few, else by a summary. From there on each due time is decided by itself until
one is skipped; nothing can end in the middle of a transaction, so all that follow are skipped for the same reason.
Ordinary due times come after the gap and are decided one by one. The cursor moves with every row, and moves for good
only if the transaction commits; a batch that was too long is continued from there. Everything here happens inside one
transaction and has no effect outside it.
"""

import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from daemon.access import Claim
from daemon.fires.ledger import Fire, Ledger
from daemon.fires.run_of_fire import run_of_fire
from daemon.model import CONFIG_PRINCIPAL, DueTime, FireOutcome, Trigger
from daemon.notify.outbox import Notice, Outbox
from daemon.rules import catchup, overlap
from daemon.rules.budget import Limits, calendar_day, exhausted
from daemon.store.cancellations import flag_unfinished
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.runs import count_unfinished, create_run, spent_by
from daemon.store.schedules import (
    UNDECIDABLE,
    ScheduleRow,
    due_schedules,
    move_cursor,
    next_wake,
    put_off,
    schedule_from,
)
from daemon.store.skips import pending_skips
from daemon.text import plural
from daemon.units import format_instant

_INSTANT = timedelta(microseconds=1)
_MOST_AT_ONCE = 100
_PUT_OFF = timedelta(minutes=1)
_ASK_AGAIN = timedelta(seconds=5)


@dataclass(frozen=True)
class Present:
    """What a decision depends on besides the database."""

    now: datetime
    daemon_started: datetime
    agents: frozenset[str]
    instance: str
    budgets: Mapping[str, Limits] = field(default_factory=dict)
    """What agents may spend in a calendar day."""
    zone: str = "UTC"
    """Where the calendar day begins at midnight."""
    rights: Mapping[Claim, bool] = field(default_factory=dict)
    """Which creators may start runs of which agents, as far as that was looked up."""
    unanswered: frozenset[Claim] = frozenset()
    """Claims that could not be looked up in time; their schedules are put off."""

    def may_start(self, claim: Claim) -> bool | None:
        """Tell whether the creator of a schedule may start its agent, None if that was not looked up."""
        return True if claim[0] == CONFIG_PRINCIPAL else self.rights.get(claim)


@dataclass
class Decided:
    """What one pass over the schedules decided."""

    fires: list[Fire]
    failures: list[tuple[str, str]]
    """Schedules that could not be decided, and why; they are tried again after a minute."""
    next_wake: datetime | None = None
    """When the next start is; not after now if other schedules are still due."""
    unknown: set[Claim] = field(default_factory=set)
    """Creators and agents whose rights must be looked up before the schedules they concern can be decided."""


def decide_due(tx: Transaction, present: Present, outbox: Outbox, schedules: int, *, guarded: bool = False) -> Decided:
    """Decide the due times that have come of at most so many schedules.

    A schedule that cannot be decided makes all fail with one of `UNDECIDABLE`, so that nothing is written. Guarded, it
    is put off and reported while the others are decided; that is slower.
    """
    decided = Decided([], [])
    for raw in due_schedules(tx, present.now, schedules):
        claim = raw["creator"], raw["agent"]
        if claim in present.unanswered:
            put_off(tx, raw["id"], present.now + _ASK_AGAIN)
            reason = f"the rights of {claim[0]} cannot be looked up now"
            decided.failures.append((f"{raw['agent']}/{raw['name']}", reason))
        elif present.may_start(claim) is None:
            decided.unknown.add(claim)
        elif guarded:
            _decide_guarded(tx, present, outbox, raw, decided)
        else:
            decided.fires.extend(_Decision(tx, present, outbox, schedule_from(raw)).decide())
    decided.next_wake = next_wake(tx, present.now + _PUT_OFF)
    return decided


def _decide_guarded(tx: Transaction, present: Present, outbox: Outbox, raw: sqlite3.Row, decided: Decided) -> None:
    try:
        with tx.savepoint():
            decided.fires.extend(_Decision(tx, present, outbox, schedule_from(raw)).decide())
    except UNDECIDABLE as error:
        put_off(tx, raw["id"], present.now + _PUT_OFF)
        decided.failures.append((f"{raw['agent']}/{raw['name']}", f"{type(error).__name__}: {error}"))


class _Decision:
    """The due times of one schedule that have come, oldest first."""

    def __init__(self, tx: Transaction, present: Present, outbox: Outbox, row: ScheduleRow) -> None:
        self.tx = tx
        self.present = present
        self.outbox = outbox
        self.row = row
        self.ledger = Ledger(tx, row, present.now)

    def decide(self) -> list[Fire]:
        """Decide what was missed, then what is due, and move the schedule's cursor past both."""
        limit = catchup.missed_before(self.present.now, self.present.daemon_started)
        last = catchup.last_missed(self.row.cadence, self.row.address, self.ledger.cursor, limit)
        if last is None or self._decide_gap(last):
            self._decide_ordinary()
        move_cursor(self.tx, self.row, self.ledger.cursor)
        self.outbox.add(self.tx, self._notices(), self.present.now)
        return self.ledger.fires

    def _notices(self) -> Iterator[Notice]:
        """Yield what people may want to know of these due times."""
        missed = [fire for fire in self.ledger.fires if fire.outcome is FireOutcome.SKIPPED_MISSED]
        if missed:
            count, first = sum(fire.count for fire in missed), format_instant(missed[0].due)
            text = f"{self.row.address} missed {plural(count, 'due time')} since {first}: {missed[0].reason}"
            details = {"count": count, "scheduled_for": first, "reason": missed[0].reason}
            yield Notice("missed", text, self.row.agent, self.row.address, details=details)
        over = [fire for fire in self.ledger.fires if fire.outcome is FireOutcome.SKIPPED_BUDGET]
        if over:
            day = format_instant(calendar_day(self.present.now, self.present.zone)[0])
            subject = f"budget:{self.row.agent}"
            yield Notice("budget", str(over[0].reason), self.row.agent, self.row.address, subject=subject, state=day)

    def _decide_ordinary(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            due = self.row.cadence.next_after(self.ledger.cursor)
            if due is None or self.row.cadence.start_of(due, self.row.address) > self.present.now:
                return
            self._decide_one(due, Trigger.SCHEDULED)
            self.ledger.cursor = due

    def _decide_gap(self, last: DueTime) -> bool:
        """Decide missed due times up to the last; return whether all are decided."""
        first = self.row.cadence.next_after(self.ledger.cursor)
        if first is None:
            return True
        row = self.row
        window = (row.catchup, row.catchup_window)
        wanted = self._newest_wanted(last)
        started = None
        if wanted is not None:
            started = catchup.first_started(*window, row.cadence, row.address, (first, wanted), self.present.now)
        end = last if started is None else DueTime(started - _INSTANT)
        in_window = row.cadence.start_of(last, row.address) >= self.present.now - row.catchup_window
        self.ledger.skip_all(end, FireOutcome.SKIPPED_MISSED, catchup.reason(row.catchup, in_window=in_window))
        for _ in range(_MOST_AT_ONCE):
            due = row.cadence.next_after(self.ledger.cursor)
            if due is None or due > last:
                return True
            decision, reason = self._present_decision()
            if reason is not None:  # nothing can end meanwhile: all that follows is skipped for the same reason
                self.ledger.skip_all(last, decision.outcome, reason)
                return True
            self._decide_one(due, Trigger.CATCHUP, decision)
            self.ledger.cursor = due
        return self.ledger.cursor >= last

    def _newest_wanted(self, last: DueTime) -> DueTime | None:
        """Return the newest due time up to the last that nobody asked to skip."""
        skips = set(pending_skips(self.tx, self.row.id))
        due: DueTime | None = last
        while due is not None and format_instant(due) in skips:
            due = self.row.cadence.last_until(self.ledger.cursor, due - _INSTANT)
        return due

    def _present_decision(self) -> tuple[overlap.OverlapDecision, str | None]:
        """Return what a due time of this schedule does as things are, and why if it does not start."""
        if self.row.agent not in self.present.agents:
            gone = f"no agent {self.row.agent!r} is in the config"
            return overlap.OverlapDecision(FireOutcome.SKIPPED_AGENT_DELETED), gone
        if not self.present.may_start((self.row.creator, self.row.agent)):
            revoked = f"{self.row.creator}, who created the schedule, may not start runs of {self.row.agent} any more"
            return overlap.OverlapDecision(FireOutcome.SKIPPED_PERMISSION_DENIED), revoked
        spent = self._spent()
        if spent is not None:
            return overlap.OverlapDecision(FireOutcome.SKIPPED_BUDGET), spent
        unfinished, waiting = count_unfinished(self.tx, self.row.id)
        decision = overlap.decide(self.row.overlap, unfinished, waiting)
        skipped = decision.outcome is FireOutcome.SKIPPED_OVERLAP
        return decision, overlap.reason(self.row.overlap, unfinished) if skipped else None

    def _spent(self) -> str | None:
        """Say that the agent has spent its budget of the day, and when the schedule starts again; None if not."""
        limits = self.present.budgets.get(self.row.agent)
        if limits is None:
            return None
        begin, end = calendar_day(self.present.now, self.present.zone)
        reached = exhausted(limits, spent_by(self.tx, self.row.agent, begin, end))
        if reached is None:
            return None
        then = self.row.cadence.next_after(end - _INSTANT)
        again = "" if then is None else f"; the next start is due at {format_instant(then)}"
        return f"the budget of {self.row.agent} for the day is spent: {reached}{again}"

    def _decide_one(self, due: DueTime, trigger: Trigger, decision: overlap.OverlapDecision | None = None) -> None:
        """Decide one due time, unless it was decided before; a decision that starts it may be known already."""
        if self.ledger.has(due) or self.ledger.skip_if_requested(due):
            return
        if decision is None:
            decision, reason = self._present_decision()
            if reason is not None:
                self.ledger.record(due, decision.outcome, reason=reason)
                return
        if decision.stop_others is not None:
            self._stop_others(at_once=decision.stop_others == "terminate")
        self._launch(due, trigger, decision)

    def _launch(self, due: DueTime, trigger: Trigger, decision: overlap.OverlapDecision) -> None:
        new = run_of_fire(self.row, due, trigger, self.present.instance, held=decision.held)
        run_id, fresh = create_run(self.tx, new, self.present.now)
        if not fresh:
            add_event(self.tx, run_id, self.present.now, "fired_again", {"due": format_instant(due)})
        self.ledger.record(due, decision.outcome, run_id=run_id)

    def _stop_others(self, *, at_once: bool) -> None:
        reason = f"a later due time came (overlap = {self.row.overlap})"
        flag_unfinished(self.tx, self.row.id, self.present.now, CONFIG_PRINCIPAL, at_once=at_once, reason=reason)
