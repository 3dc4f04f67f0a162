"""From due times to rows: each due time of a schedule gets its one row, and a run where it is to have one.

Everything here happens inside one transaction and has no effect outside it.
"""

import json
import sqlite3
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from daemon.model import CONFIG_PRINCIPAL, DueTime, FireOutcome, Trigger
from daemon.notify.outbox import Notice, tell
from daemon.rules import catchup, overlap
from daemon.rules.budget import Limits, calendar_day, exhausted
from daemon.rules.notifications import NOBODY, Audience
from daemon.store.cancellations import flag_unfinished
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.fires import (
    Summary,
    add_summary,
    count_recorded,
    is_recorded,
    record_fire,
)
from daemon.store.runs import NewRun, count_unfinished, create_run, spent_by
from daemon.store.schedules import (
    UNDECIDABLE,
    ScheduleRow,
    due_schedules,
    move_cursor,
    next_wake,
    put_off,
    schedule_from,
)
from daemon.store.skips import pending_skips, remove_skip
from daemon.units import format_instant, parse_instant

_INSTANT = timedelta(microseconds=1)
_MOST_AT_ONCE = 100
_PUT_OFF = timedelta(minutes=1)
_ASK_AGAIN = timedelta(seconds=5)
_ON_REQUEST = "skipped on request"
Claim = tuple[str, str]
"""A schedule's creator and its agent."""


@dataclass(frozen=True)
class Fire:
    """A decided due time, as the log tells it."""

    agent: str
    schedule: str
    due: datetime
    outcome: FireOutcome
    run_id: int | None = None
    reason: str | None = None
    count: int = 1
    late: timedelta = timedelta(0)
    stops_others: bool = False
    """Whether earlier runs of the schedule were flagged for cancellation."""


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
    audience: Audience = NOBODY
    """Who is told of what was missed or skipped."""
    rights: Mapping[Claim, bool] = field(default_factory=dict)
    """Which creators may start runs of which agents, as far as that was looked up."""
    unanswered: frozenset[Claim] = frozenset()
    """Of whom nobody could tell in time; their schedules are put off."""

    def may_start(self, claim: Claim) -> bool | None:
        """Tell whether the creator of a schedule may start its agent, None if that was not looked up."""
        return True if claim[0] == CONFIG_PRINCIPAL else self.rights.get(claim)


@dataclass
class Decided:
    """What one look at the schedules brought about."""

    fires: list[Fire]
    troubles: list[tuple[str, str]]
    """Schedules that could not be decided, and why; they are looked at again after a minute."""
    next_wake: datetime | None = None
    """When the next start is; not after now if other schedules are still due."""
    unknown: set[Claim] = field(default_factory=set)
    """Creators and agents whose rights must be looked up before the schedules they concern can be decided."""


def decide_due(tx: Transaction, present: Present, schedules: int, *, guarded: bool = False) -> Decided:
    """Decide the due times that have come of at most so many schedules.

    A schedule that cannot be decided makes all fail with one of `UNDECIDABLE`, so that nothing is written. Guarded, it
    is put off and told of while the others are decided; that is slower.
    """
    decided = Decided([], [])
    for raw in due_schedules(tx, present.now, schedules):
        claim = raw["creator"], raw["agent"]
        if claim in present.unanswered:
            put_off(tx, raw["id"], present.now + _ASK_AGAIN)
            decided.troubles.append(
                (f"{raw['agent']}/{raw['name']}", f"the rights of {claim[0]} cannot be looked up now")
            )
        elif present.may_start(claim) is None:
            decided.unknown.add(claim)
        elif guarded:
            _decide_guarded(tx, present, raw, decided)
        else:
            decided.fires.extend(_Decision(tx, present, schedule_from(raw)).decide())
    decided.next_wake = next_wake(tx, present.now + _PUT_OFF)
    return decided


def _decide_guarded(tx: Transaction, present: Present, raw: sqlite3.Row, decided: Decided) -> None:
    try:
        with tx.savepoint():
            decided.fires.extend(_Decision(tx, present, schedule_from(raw)).decide())
    except UNDECIDABLE as error:
        put_off(tx, raw["id"], present.now + _PUT_OFF)
        decided.troubles.append((f"{raw['agent']}/{raw['name']}", f"{type(error).__name__}: {error}"))


class _Decision:
    """The due times of one schedule that have come, oldest first."""

    def __init__(self, tx: Transaction, present: Present, row: ScheduleRow) -> None:
        self.tx = tx
        self.present = present
        self.row = row
        self.cursor = row.cursor
        self.fires: list[Fire] = []

    def decide(self) -> list[Fire]:
        """Decide what was missed, then what is due, and move the schedule's cursor past both."""
        limit = catchup.missed_before(self.present.now, self.present.daemon_started)
        last = catchup.last_missed(self.row.cadence, self.row.address, self.cursor, limit)
        if last is None or self._decide_gap(last):
            self._decide_ordinary()
        move_cursor(self.tx, self.row, self.cursor)
        tell(self.tx, self.present.audience, self._notices(), self.present.now)
        return self.fires

    def _notices(self) -> Iterator[Notice]:
        """Yield what people may want to hear of these due times."""
        missed = [fire for fire in self.fires if fire.outcome is FireOutcome.SKIPPED_MISSED]
        if missed:
            count, first = sum(fire.count for fire in missed), format_instant(missed[0].due)
            text = f"{self.row.address} missed {count} due time(s) from {first} on: {missed[0].reason}"
            details = {"count": count, "scheduled_for": first, "reason": missed[0].reason}
            yield Notice("missed", text, self.row.agent, self.row.address, details=details)
        over = [fire for fire in self.fires if fire.outcome is FireOutcome.SKIPPED_BUDGET]
        if over:
            day = format_instant(calendar_day(self.present.now, self.present.zone)[0])
            subject = f"budget:{self.row.agent}"
            yield Notice("budget", str(over[0].reason), self.row.agent, self.row.address, subject=subject, state=day)

    def _decide_ordinary(self) -> None:
        for _ in range(_MOST_AT_ONCE):
            due = self.row.cadence.next_after(self.cursor)
            if due is None or self._start(due) > self.present.now:
                return
            self._decide_one(due, Trigger.SCHEDULED)
            self.cursor = due

    def _decide_gap(self, last: DueTime) -> bool:
        """Decide missed due times up to the last; return whether all are decided."""
        first = self.row.cadence.next_after(self.cursor)
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
        self.skip_all(end, FireOutcome.SKIPPED_MISSED, catchup.reason(row.catchup, in_window=in_window))
        for _ in range(_MOST_AT_ONCE):
            due = row.cadence.next_after(self.cursor)
            if due is None or due > last:
                return True
            verdict, reason = self._verdict()
            if reason is not None:  # nothing can end meanwhile: all that follows is skipped for the same reason
                self.skip_all(last, verdict.outcome, reason)
                return True
            self._decide_one(due, Trigger.CATCHUP, verdict)
            self.cursor = due
        return self.cursor >= last

    def _newest_wanted(self, last: DueTime) -> DueTime | None:
        """Return the newest due time up to the last that nobody asked to leave out."""
        skips = set(pending_skips(self.tx, self.row.id))
        due: DueTime | None = last
        while due is not None and format_instant(due) in skips:
            due = self.row.cadence.last_until(self.cursor, due - _INSTANT)
        return due

    def _verdict(self) -> tuple[overlap.OverlapDecision, str | None]:
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
        verdict = overlap.decide(self.row.overlap, unfinished, waiting)
        skipped = verdict.outcome is FireOutcome.SKIPPED_OVERLAP
        return verdict, overlap.reason(self.row.overlap, unfinished) if skipped else None

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

    def skip_all(self, last: DueTime, outcome: FireOutcome, reason: str) -> None:
        """Give the due times after the cursor and up to `last` their rows, or one row if they are too many."""
        cadence = self.row.cadence
        self._settle_skips(last)
        first = cadence.next_after(self.cursor)
        if first is None or first > last:
            return
        count = cadence.count(self.cursor, last)
        if count > catchup.MOST_ROWS:
            self.summarise(first, last, count, outcome, reason)
        else:
            due: DueTime | None = first
            while due is not None and due <= last:
                if not is_recorded(self.tx, self.row.id, due):
                    self._record(due, outcome, reason)
                due = cadence.next_after(due)
        self.cursor = last

    def _settle_skips(self, last: DueTime) -> None:
        """Give the due times up to `last` that were to be left out their rows."""
        for requested in map(parse_instant, pending_skips(self.tx, self.row.id)):
            due = self.row.cadence.next_after(requested - _INSTANT)
            if due == requested and self.cursor < due <= last and not is_recorded(self.tx, self.row.id, due):
                self._record(due, FireOutcome.SKIPPED_REQUESTED, _ON_REQUEST)

    def summarise(self, first: DueTime, last: DueTime, count: int, outcome: FireOutcome, reason: str) -> None:
        """Cover many due times by one row, less those that have rows already."""
        cadence = self.row.cadence
        while is_recorded(self.tx, self.row.id, first) and first < last:
            first = cadence.next_after(first) or last
            count -= 1
        newest = cadence.last_until(first - _INSTANT, last) or last
        count -= count_recorded(self.tx, self.row.id, first, newest)
        if count > 0:
            decided_at = format_instant(self.present.now)
            add_summary(
                self.tx,
                Summary(self.row.id, first, newest, count, outcome, reason, decided_at, self.row.version),
            )
            self.tx.counts["fire", outcome] += count
            self._note(first, outcome, reason=reason, count=count)

    def _decide_one(self, due: DueTime, trigger: Trigger, verdict: overlap.OverlapDecision | None = None) -> None:
        """Decide one due time, unless it was decided before; a verdict that starts it may be known already."""
        if is_recorded(self.tx, self.row.id, due):
            return
        if remove_skip(self.tx, self.row.id, due):
            self._record(due, FireOutcome.SKIPPED_REQUESTED, _ON_REQUEST)
            return
        if verdict is None:
            verdict, reason = self._verdict()
            if reason is not None:
                self._record(due, verdict.outcome, reason)
                return
        if verdict.stop_others is not None:
            self._stop_others(at_once=verdict.stop_others == "terminate")
        self._launch(due, trigger, verdict)

    def _launch(self, due: DueTime, trigger: Trigger, verdict: overlap.OverlapDecision) -> None:
        new = new_run(self.row, due, trigger, self.present.instance, held=verdict.held)
        run_id, fresh = create_run(self.tx, new, self.present.now)
        if not fresh:
            add_event(self.tx, run_id, self.present.now, "fired_again", {"due": format_instant(due)})
        record_fire(self.tx, self.row.id, due, verdict.outcome, self.present.now, run_id=run_id)
        self._note(due, verdict.outcome, run_id=run_id, stops_others=verdict.stop_others is not None)

    def _stop_others(self, *, at_once: bool) -> None:
        reason = f"a later due time came (overlap = {self.row.overlap})"
        flag_unfinished(self.tx, self.row.id, self.present.now, CONFIG_PRINCIPAL, at_once=at_once, reason=reason)

    def _record(self, due: DueTime, outcome: FireOutcome, reason: str) -> None:
        record_fire(self.tx, self.row.id, due, outcome, self.present.now, reason=reason)
        self._note(due, outcome, reason=reason)

    def _note(
        self,
        due: DueTime,
        outcome: FireOutcome,
        *,
        run_id: int | None = None,
        reason: str | None = None,
        count: int = 1,
        stops_others: bool = False,
    ) -> None:
        late = self.present.now - self._start(due)
        fire = Fire(self.row.agent, self.row.name, due, outcome, run_id, reason, count, late, stops_others)
        self.fires.append(fire)

    def _start(self, due: DueTime) -> datetime:
        return self.row.cadence.start_of(due, self.row.address)


def waiting_for_jitter(row: ScheduleRow, now: datetime) -> DueTime | None:
    """Return the due time of a schedule that has come, but whose jitter has it start later."""
    due = row.cadence.last_until(row.cursor, now)
    return due if due is not None and row.cadence.start_of(due, row.address) > now else None


def skip_undecided(tx: Transaction, row: ScheduleRow, now: datetime, reason: str) -> None:
    """Give every due time that has come but was not decided its row, before its cadence goes."""
    present = Present(now, now, frozenset(), "")
    _Decision(tx, present, row).skip_all(DueTime(now), FireOutcome.SKIPPED_MISSED, reason)


def record_pause(tx: Transaction, row: ScheduleRow, now: datetime) -> None:
    """Write the one row that covers the due times of a pause that ends now."""
    cadence, present = row.cadence, Present(now, now, frozenset(), "")
    first = cadence.next_after(row.cursor)
    if first is not None and first <= now:
        reason = f"paused since {format_instant(row.paused_at or now)}"
        count = cadence.count(row.cursor, now)
        _Decision(tx, present, row).summarise(first, DueTime(now), count, FireOutcome.SKIPPED_PAUSED, reason)


def new_run(
    row: ScheduleRow, due: DueTime, trigger: Trigger, instance: str, *, creator: str | None = None, held: bool = False
) -> NewRun:
    """Describe the run of a due time under its deterministic name; its creator is the schedule's, or who asked."""
    at = format_instant(due)
    metadata = json.loads(row.definition["task_metadata"])
    display_name = metadata.get("display_name")
    if not isinstance(display_name, str):
        display_name = f"Scheduled Message: {row.name} · {at[:10]} {at[11:16]} UTC"
    handed = {
        **metadata,
        "display_name": display_name,
        "schedule_id": row.id,
        "scheduled_fire_id": f"{row.id}:{at}",
        "trigger_type": str(trigger),
        "fire_time": at,
    }
    return NewRun(
        name=f"scheduled-run:{row.id}:{at}",
        agent=row.agent,
        schedule_id=row.id,
        trigger=trigger,
        scheduled_for=due,
        display_name=display_name,
        creator=creator or row.creator,
        input_author=row.definition["input_author"],
        input_content=row.definition["input_content"],
        task_params=row.definition["task_params"],
        task_metadata=json.dumps(handed),
        instance=instance,
        held=held,
    )
