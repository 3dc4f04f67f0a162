"""What a pause, a resumption or the end of a schedule means for its runs, those that wait and those that have started.

While a schedule is paused its pending runs wait: the queue reads the schedule again before each start, and so does
`runs.delivery_stages.Stages` before an agent is released. At the resumption the runs that waited are decided like due
times that were missed. A deleted schedule starts nothing, so its pending runs are cancelled with it.
"""

from dataclasses import dataclass, field
from datetime import datetime

from daemon.model import CONFIG_PRINCIPAL, Catchup, FireOutcome, Trigger
from daemon.rules import overlap
from daemon.rules.catchup import still_wanted
from daemon.runs.cancel import MOST_REWRITTEN, drop
from daemon.store.cancellations import Flag, flag_cancellation
from daemon.store.connection import Transaction, concerns_others
from daemon.store.run_queue import waiting_of, waiting_without_schedule
from daemon.store.runs import Run, bulk_of, get_run, update_run
from daemon.store.schedules import ScheduleRow
from daemon.store.unfinished_runs import begun_of, count_unfinished

DELETED = "its schedule was deleted"
RETIRED = "its schedule was removed from the config file"
"""Why a run of a schedule that is deleted is cancelled, by a request or by the file."""


def cancel_waiting(tx: Transaction, schedule_id: int, now: datetime, by: str, reason: str) -> int:
    """Cancel the pending runs of a deleted schedule; return their number.

    If they are large, this flags most of them, and the queue cancels those; they do not start meanwhile. Due times
    would wait for a transaction that writes them all.
    """
    waiting, left = waiting_of(tx, schedule_id), MOST_REWRITTEN
    for run in waiting:
        if left > 0:
            _cancel(tx, run, now, by, reason)
            left -= bulk_of(tx, run.id)
        else:
            flag_cancellation(tx, run.id, now, by, reason=reason)
    return len(waiting)


def cancel_begun(tx: Transaction, schedule_id: int, now: datetime, by: str, reason: str) -> int:
    """Request the cancellation of the runs of a schedule that have started; return their number."""
    begun = begun_of(tx, schedule_id)
    for run_id in begun:
        flag_cancellation(tx, run_id, now, by, reason=reason)
    return len(begun)


def cancel_without_schedule(tx: Transaction, now: datetime) -> tuple[list[int], dict[int, Exception]]:
    """Cancel the pending runs of deleted schedules, which earlier versions left; return which, and which cannot be.

    One that cannot be cancelled does not affect the others.
    """
    cancelled: list[int] = []
    failures: dict[int, Exception] = {}
    for run_id in waiting_without_schedule(tx):
        try:
            with tx.savepoint():
                run = get_run(tx, run_id)
                if run is not None:
                    _cancel(tx, run, now, CONFIG_PRINCIPAL, DELETED)
        except Exception as error:
            if concerns_others(error):
                raise
            failures[run_id] = error
        else:
            cancelled.append(run_id)
    return cancelled, failures


def resume_waiting(tx: Transaction, row: ScheduleRow, now: datetime, by: str) -> None:
    """Decide the runs that waited for the end of a pause as catch-up and overlap policy say; cancel the others.

    Backfills keep waiting for their turn: somebody requested just these due times.
    """
    waited = [run for run in waiting_of(tx, row.id) if not run.requested and run.trigger is not Trigger.BACKFILL]
    wanted = still_wanted(row.catchup, row.catchup_window, [run.due for run in waited], now)
    unfinished, buffered = count_unfinished(tx, row.id)
    resumption = _Resumption(
        tx, row, now, by, unfinished - len(waited), buffered - sum(bool(run.held) for run in waited)
    )
    for run in waited:
        if run.due in wanted:
            resumption.decide(run)
        else:
            resumption.drop(run, FireOutcome.SKIPPED_PAUSED, _not_caught_up(row.catchup))


def _not_caught_up(policy: Catchup) -> str:
    if policy is Catchup.LATEST:
        return "it waited while its schedule was paused, and is not the latest that did or too old (catchup = latest)"
    return f"it waited while its schedule was paused (catchup = {policy})"


@dataclass
class _Resumption:
    """Decides the runs that waited, oldest first, against those that are unfinished."""

    tx: Transaction
    row: ScheduleRow
    now: datetime
    by: str
    unfinished: int
    buffered: int
    kept: list[Run] = field(default_factory=list)

    def decide(self, run: Run) -> None:
        decision = overlap.decide(self.row.overlap, self.unfinished, self.buffered)
        if decision.outcome is FireOutcome.SKIPPED_OVERLAP:
            self.drop(run, decision.outcome, overlap.reason(self.row.overlap, self.unfinished))
            return
        if decision.stop_others is not None:
            self._stop_others(at_once=decision.stop_others == "terminate")
        if decision.held != bool(run.held):
            update_run(self.tx, run.id, self.now, held=int(decision.held))
        self.kept.append(run)
        self.unfinished += 1
        self.buffered += decision.held

    def drop(self, run: Run, outcome: FireOutcome, reason: str) -> None:
        _cancel(self.tx, run, self.now, self.by, reason, outcome)

    def _stop_others(self, *, at_once: bool) -> None:
        reason = f"a later due time came (overlap = {self.row.overlap})"
        for run in self.kept:
            self.drop(run, FireOutcome.SKIPPED_OVERLAP, reason)
        self.unfinished -= len(self.kept)
        self.kept = []
        for run_id in begun_of(self.tx, self.row.id):
            flag_cancellation(self.tx, run_id, self.now, self.by, at_once=at_once, reason=reason)


def _cancel(
    tx: Transaction,
    run: Run,
    now: datetime,
    by: str,
    reason: str,
    outcome: FireOutcome = FireOutcome.SKIPPED_REQUESTED,
) -> None:
    explanation = Flag(run.id, by, at_once=False, reason=reason).explanation
    drop(tx, run, now, outcome, explanation)
