"""Decides due times: each one that has come gets exactly one row in the ledger and, unless it is skipped, a run.

A gap is the time during which the daemon was stopped or the host was suspended. The due times in a gap were missed, and
they are decided first. The catch-up policy selects the ones that are still started; these are always the last ones of
the gap. All earlier ones are skipped in one step, because a gap of a year can contain millions: with one row each if
they are few, otherwise with one summary row. The selected ones are then decided one by one, until one of them is
skipped. No run can end during a transaction, so all later ones in the gap are skipped for the same reason. After the
gap, ordinary due times are decided one by one. Each row advances the schedule's cursor, which is stored in the same
transaction; if a batch reaches its limit, the next one continues from there. Nothing here has an effect outside the
transaction.
"""

import sqlite3
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from itertools import groupby
from math import inf

from daemon.access import Claim, Standing
from daemon.allowance import Kind
from daemon.fires.blocked import DENIED, NO_AGENT, blocked_notice, reason_of
from daemon.fires.ledger import Fire, Ledger
from daemon.fires.run_of_fire import run_of_fire
from daemon.fires.spending import Funds
from daemon.model import CONFIG_PRINCIPAL, Catchup, DueTime, FireOutcome, Overlap, Trigger
from daemon.notify.missed import Missed
from daemon.notify.outbox import Notice, Outbox
from daemon.rules import catchup, overlap
from daemon.rules.budget import Budgets
from daemon.store.cancellations import flag_unfinished
from daemon.store.connection import Transaction, concerns_others
from daemon.store.events import add_event
from daemon.store.pools import limit_of
from daemon.store.runs import create_run
from daemon.store.schedules import (
    ScheduleRow,
    due_schedules,
    move_cursor,
    next_wake,
    put_off,
    schedule_from,
)
from daemon.store.skips import pending_skips
from daemon.store.spending import Spending
from daemon.store.unfinished_runs import count_unfinished
from daemon.units import format_instant

_INSTANT = timedelta(microseconds=1)
_MOST_AT_ONCE = 100
RETRY_AFTER = timedelta(minutes=1)
"""How long a schedule that cannot be decided is postponed."""
_RETRY_LOOKUP_AFTER = timedelta(seconds=5)
_BLOCKED = {FireOutcome.SKIPPED_PERMISSION_DENIED: DENIED, FireOutcome.SKIPPED_AGENT_DELETED: NO_AGENT}


@dataclass(frozen=True)
class Present:
    """What a decision depends on in addition to the database."""

    now: datetime
    daemon_started: datetime
    agents: frozenset[str]
    instance: str
    budgets: Budgets = field(default_factory=Budgets)
    """What each agent, and all of them together, may spend in a calendar day."""
    skipping: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """The agents whose due times are skipped while a limit is used up, with their pools."""
    standings: Mapping[Claim, Standing] = field(default_factory=dict)
    """What creators of schedules may do, as far as this was looked up."""
    unanswered: frozenset[Claim] = frozenset()
    """Claims that could not be looked up in time; their schedules are postponed."""
    used: Mapping[str, float] = field(default_factory=dict)
    """How many bytes the runs take that schedules of each creator started within a day."""

    def standing(self, claim: Claim) -> Standing | None:
        """Return what the creator of a schedule may do, None if this was not looked up."""
        return Standing(may_start=True, is_admin=True) if claim[0] == CONFIG_PRINCIPAL else self.standings.get(claim)


@dataclass
class Decided:
    """The result of one pass over the schedules that are due."""

    fires: list[Fire]
    failures: list[tuple[str, str]]
    """Schedules that could not be decided, and why; they are retried after a minute."""
    next_wake: datetime | None = None
    """When the next start is due; not after now if other schedules are still due."""
    unknown: set[Claim] = field(default_factory=set)
    """Claims that must be looked up before the schedules they concern can be decided."""
    started: Counter[str] = field(default_factory=Counter)
    """How many bytes the started runs take, by the creator of their schedule; administrators are not counted."""


def decide_due(tx: Transaction, present: Present, outbox: Outbox, schedules: int, *, guarded: bool = False) -> Decided:
    """Decide the due times that have come, of at most `schedules` schedules.

    A schedule that cannot be decided raises an error, so that nothing is written. With `guarded`, which is slower, it
    is postponed and reported, and the others are decided.
    """
    ongoing = _Pass(tx, present, outbox)
    decided, decide = ongoing.decided, ongoing.decide_guarded if guarded else ongoing.decide
    for raw in due_schedules(tx, present.now, schedules):
        claim = raw["creator"], raw["agent"]
        if claim in present.unanswered:
            put_off(tx, raw["id"], present.now + _RETRY_LOOKUP_AFTER)
            reason = f"the rights of {claim[0]} cannot be looked up now"
            decided.failures.append((f"{raw['agent']}/{raw['name']}", reason))
        elif (standing := present.standing(claim)) is None:
            decided.unknown.add(claim)
        else:
            decide(raw, standing)
    decided.next_wake = next_wake(tx, present.now + RETRY_AFTER)
    more = decided.next_wake is not None and decided.next_wake <= present.now
    outbox.add_missed(tx, [*_missed_in(decided.fires)], present.now, more=more)
    return decided


def _missed_in(fires: Iterable[Fire]) -> Iterator[Missed]:
    """Yield what each schedule missed."""
    missed = (fire for fire in fires if fire.outcome is FireOutcome.SKIPPED_MISSED)
    for (agent, name), group in groupby(missed, key=lambda fire: (fire.agent, fire.schedule)):
        first, *others = group
        count = sum(fire.count for fire in (first, *others))
        yield Missed(agent, f"{agent}/{name}", count, first.due, first.reason or "")


class _Pass:
    """One pass over the schedules that are due, in one transaction."""

    def __init__(self, tx: Transaction, present: Present, outbox: Outbox) -> None:
        self.tx = tx
        self.present = present
        self.outbox = outbox
        self.spending = Spending(tx, present.budgets, present.now)
        self.decided = Decided([], [])

    def decide(self, raw: sqlite3.Row, standing: Standing) -> None:
        """Decide the due times of one schedule, and count what that started."""
        row, before = schedule_from(raw), self.tx.changes.run_bytes
        used = self.present.used.get(row.creator, 0.0) + self.decided.started[row.creator]
        room = inf if standing.is_admin else Kind.FIRES.most - used
        funds = Funds(self.tx, self.spending, row, room)
        decision = _Decision(self.tx, self.present, self.outbox, row, funds, may_start=standing.may_start)
        self.decided.fires.extend(decision.decide())
        if not standing.is_admin:
            self.decided.started[row.creator] += self.tx.changes.run_bytes - before

    def decide_guarded(self, raw: sqlite3.Row, standing: Standing) -> None:
        """Do the same, but postpone and report a schedule that cannot be decided."""
        try:
            with self.tx.savepoint():
                self.decide(raw, standing)
        except Exception as error:
            if concerns_others(error):
                raise
            self.spending.forget()
            put_off(self.tx, raw["id"], self.present.now + RETRY_AFTER)
            reason = f"{type(error).__name__}: {error}"
            self.decided.failures.append((f"{raw['agent']}/{raw['name']}", reason))


class _Decision:
    """Decides the due times of one schedule that have come, oldest first."""

    def __init__(
        self, tx: Transaction, present: Present, outbox: Outbox, row: ScheduleRow, funds: Funds, *, may_start: bool
    ) -> None:
        self.tx = tx
        self.present = present
        self.outbox = outbox
        self.row = row
        self.funds = funds
        self.may_start = may_start
        self.ledger = Ledger(tx, row, present.now)

    def decide(self) -> list[Fire]:
        """Decide the missed due times, then the ordinary ones, and advance the schedule's cursor past both."""
        limit = catchup.missed_before(self.present.now, self.present.daemon_started)
        last = catchup.last_missed(self.row.cadence, self.row.address, self.ledger.cursor, limit)
        if last is None or self._decide_gap(last):
            self._decide_ordinary()
        move_cursor(self.tx, self.row, self.ledger.cursor)
        self.outbox.add(self.tx, self._notices(), self.present.now)
        if any(fire.run_id is not None for fire in self.ledger.fires):
            self.outbox.warn_of_budgets(self.tx, self.row.agent, self.present.now, self.funds.spending)
        return self.ledger.fires

    def _notices(self) -> Iterator[Notice]:
        """Yield a notice for an exhausted budget, and for a schedule that can start nothing."""
        yield from self._blocked_notices()
        over_budget = [fire for fire in self.ledger.fires if fire.outcome is FireOutcome.SKIPPED_BUDGET]
        if over_budget:
            yield self.funds.notice(str(over_budget[0].reason))

    def _blocked_notices(self) -> Iterator[Notice]:
        """Yield what the last due time says about whether the schedule can start anything, if that may have changed."""
        last = self.ledger.fires[-1] if self.ledger.fires else None
        if last is None or self.row.creator == CONFIG_PRINCIPAL:
            return
        state = _BLOCKED.get(last.outcome)
        if state is not None or last.run_id is not None:
            yield blocked_notice(self.row.id, self.row.agent, self.row.address, state, last.reason or "")

    def _decide_ordinary(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            due = self.row.cadence.next_after(self.ledger.cursor)
            if due is None or self.row.cadence.start_of(due, self.row.address) > self.present.now:
                return
            self._decide_one(due, Trigger.SCHEDULED)
            self.ledger.cursor = due

    def _decide_gap(self, last: DueTime) -> bool:
        """Decide the missed due times up to `last`; return whether all of them are decided."""
        first = self.row.cadence.next_after(self.ledger.cursor)
        if first is None:
            return True
        row = self.row
        window = (row.catchup, row.catchup_window)
        newest, is_overtaken = self._newest_not_skipped(last), self._is_overtaken(last)
        started = None
        if newest is not None and not is_overtaken:
            started = catchup.first_started(*window, row.cadence, row.address, (first, newest), self.present.now)
        end = last if started is None else DueTime(started - _INSTANT)
        in_window = row.cadence.start_of(last, row.address) >= self.present.now - row.catchup_window
        why = catchup.OVERTAKEN if is_overtaken else catchup.reason(row.catchup, in_window=in_window)
        self.ledger.skip_all(end, FireOutcome.SKIPPED_MISSED, why)
        for _ in range(_MOST_AT_ONCE):
            due = row.cadence.next_after(self.ledger.cursor)
            if due is None or due > last:
                return True
            decision, reason = self._present_decision()
            if reason is not None:  # no run can end meanwhile, so the rest is skipped for the same reason
                self.ledger.skip_all(last, decision.outcome, reason)
                return True
            self._decide_one(due, Trigger.CATCHUP, decision)
            self.ledger.cursor = due
        return self.ledger.cursor >= last

    def _is_overtaken(self, last: DueTime) -> bool:
        """Return whether a newer due time than the missed ones has come, which their catch-up would keep from starting.

        With `latest` one run is wanted, for the newest due time, and with `skip` it cannot start beside the catch-up.
        """
        row = self.row
        if (row.catchup, row.overlap) != (Catchup.LATEST, Overlap.SKIP):
            return False
        newer, skips = row.cadence.next_after(last), set(pending_skips(self.tx, row.id))
        while newer is not None and format_instant(newer) in skips:
            newer = row.cadence.next_after(newer)
        return newer is not None and row.cadence.start_of(newer, row.address) <= self.present.now

    def _newest_not_skipped(self, last: DueTime) -> DueTime | None:
        """Return the newest due time up to `last` for which no skip was requested."""
        skips = set(pending_skips(self.tx, self.row.id))
        due: DueTime | None = last
        while due is not None and format_instant(due) in skips:
            due = self.row.cadence.last_until(self.ledger.cursor, due - _INSTANT)
        return due

    def _present_decision(self) -> tuple[overlap.OverlapDecision, str | None]:
        """Return how a due time of this schedule is decided now, and the reason if it is skipped."""
        if self.row.agent not in self.present.agents:
            gone = reason_of(NO_AGENT, self.row.creator, self.row.agent)
            return overlap.OverlapDecision(FireOutcome.SKIPPED_AGENT_DELETED), gone
        if not self.may_start:
            revoked = reason_of(DENIED, self.row.creator, self.row.agent)
            return overlap.OverlapDecision(FireOutcome.SKIPPED_PERMISSION_DENIED), revoked
        spent = self.funds.refusal()
        if spent is not None:
            return overlap.OverlapDecision(FireOutcome.SKIPPED_BUDGET), spent
        limit = limit_of(self.tx, self.present.skipping.get(self.row.agent, ()), self.present.now)
        if limit is not None:
            return overlap.OverlapDecision(FireOutcome.SKIPPED_QUOTA), f"{limit.text} (on_limit = skip)"
        unfinished, waiting = count_unfinished(self.tx, self.row.id)
        decision = overlap.decide(self.row.overlap, unfinished, waiting)
        skipped = decision.outcome is FireOutcome.SKIPPED_OVERLAP
        return decision, overlap.reason(self.row.overlap, unfinished) if skipped else None

    def _decide_one(self, due: DueTime, trigger: Trigger, decision: overlap.OverlapDecision | None = None) -> None:
        """Decide one due time unless it is already decided; `decision` is passed if it is known to start."""
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
        if fresh:
            self.funds.spending.add_run(self.row.agent)
        else:
            add_event(self.tx, run_id, self.present.now, "fired_again", {"due": format_instant(due)})
        self.ledger.record(due, decision.outcome, run_id=run_id)

    def _stop_others(self, *, at_once: bool) -> None:
        reason = f"a later due time came (overlap = {self.row.overlap})"
        flag_unfinished(self.tx, self.row.id, self.present.now, CONFIG_PRINCIPAL, at_once=at_once, reason=reason)
