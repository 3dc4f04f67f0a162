"""Ends a run: records its final status, or creates the next attempt."""

from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from daemon.agents.base import Outcome, RunSettings
from daemon.model import ACTIVE, CONFIG_PRINCIPAL, FailureKind, RunStatus
from daemon.notify.outbox import Outbox
from daemon.rules.backoff import retry_delay
from daemon.rules.reported import amount_of, count_of, usage_of
from daemon.runs import steps
from daemon.runs.pools import close_by_outcome
from daemon.runs.retry import base_name, next_attempt
from daemon.runs.sessions import record_session
from daemon.store.cancellations import Flag, flag_of
from daemon.store.connection import Transaction
from daemon.store.events import PERMISSION_DENIED, USAGE, add_event
from daemon.store.notifications import PAUSED_BY_FAILURE
from daemon.store.runs import NewRun, Run, change_status, count_usage, create_run, get_run, limits_hit
from daemon.store.schedules import change_schedule, get_schedule_by_id
from daemon.units import format_instant, parse_instant

_MOST_RERUNS = 3
_MOST_LIMITS = 5  # attempts in a row that may hit a limit and be followed by another
_MOST_CPU_SECONDS = 1e12


def finish(
    tx: Transaction,
    run_id: int,
    outcome: Outcome,
    settings: RunSettings,
    now: datetime,
    *,
    instance: str,
    chance: float,
    outbox: Outbox,
) -> None:
    """Record the outcome of an active run, create the next attempt if there is one, and send notifications.

    A deleted schedule gets no further attempts. `chance`, between 0 and 1, randomizes the delay of a retry.
    """
    run = get_run(tx, run_id)
    if run is None or run.status not in ACTIVE:
        return
    flag = flag_of(tx, run_id)
    outcome = _with_flag(outcome, flag)
    ended_at = _ended_at(run, outcome, now)
    steps.outcome_recorded(tx, run_id, ended_at, now, outcome.error)
    columns: dict[str, object] = {
        "exit_code": count_of(outcome.exit_code),
        "signal": count_of(outcome.signal),
        "completed_at": format_instant(ended_at),
        "error": outcome.error,
        "message": outcome.message,
        "output_bytes": count_of(outcome.output_bytes),
        "output_dropped": count_of(outcome.output_dropped),
        "memory_peak_bytes": count_of(outcome.memory_peak),
        "cpu_seconds": amount_of(outcome.cpu_seconds, _MOST_CPU_SECONDS),
        **_reported(outcome),
    }
    _add_reported_events(tx, run_id, outcome, now)
    record_session(tx, run, outcome, now)
    count_usage(tx, run.agent, columns)
    hits, in_a_row = limits_hit(tx, run, base_name(run)) if run.attempt > 1 else (0, 0)
    close_by_outcome(tx, run, outcome, settings, now, hits=in_a_row + 1, chance=chance, outbox=outbox)
    new = None
    if flag is None and not run.schedule_deleted:
        next_of = partial(next_attempt, run, instance, creator=run.creator)
        if _hit_limit(outcome, settings):
            new = next_of(keeps_turn=True) if in_a_row < _MOST_LIMITS else None
        else:
            wait = _wait(outcome, settings, run.attempt - hits, now, chance)
            if outcome.status is RunStatus.FAILED and _was_refused(run, outcome, settings):
                wait = timedelta(0)
            new = None if wait is None else next_of(not_before=now + wait)
    if new is None:
        _end(tx, run, outcome, now, columns, outbox)
    else:
        _continue(tx, run, now, columns, new)
    outbox.warn_of_budgets(tx, run.agent, now)


def _reported(outcome: Outcome) -> dict[str, object]:
    """Return the columns that come from what the agent itself told of its run."""
    usage = usage_of(outcome.usage)[0]
    known = "at_least" if outcome.usage_at_least else "exact"
    kind = outcome.kind or FailureKind.FAILED
    return {
        "failure_kind": kind if outcome.status is RunStatus.FAILED else None,
        "session": outcome.session,
        "usage_state": known if usage else None,
        "denials": len(outcome.denials),
        **usage,
    }


def _add_reported_events(tx: Transaction, run_id: int, outcome: Outcome, now: datetime) -> None:
    for denial in outcome.denials:
        add_event(tx, run_id, now, PERMISSION_DENIED, {"what": denial})
    for model, usage in outcome.usage_by_model.items():
        add_event(tx, run_id, now, USAGE, {"model": model, **usage})


def _ended_at(run: Run, outcome: Outcome, now: datetime) -> datetime:
    """Return when the work ended, which is before now if no daemon was running then."""
    begun = run.delivered_at or run.started_at
    earliest = parse_instant(begun) if begun else now
    return max(earliest, min(outcome.ended_at or now, now))


def _with_flag(outcome: Outcome, flag: Flag | None) -> Outcome:
    """Apply a cancellation flag, with who requested it; a run that completed nevertheless stays completed."""
    if flag is None and outcome.status is RunStatus.CANCELLED and not outcome.cancelled_by_us:
        return replace(
            outcome, status=RunStatus.INTERRUPTED, error="its supervisor was terminated from outside agentcron"
        )
    if flag is None or outcome.status is RunStatus.COMPLETED:
        return outcome
    return replace(outcome, status=RunStatus.CANCELLED, error=flag.explanation)


def _hit_limit(outcome: Outcome, settings: RunSettings) -> bool:
    """Return whether a failure closed a pool until a limit is reset: another attempt waits for that, and costs none."""
    is_limit = outcome.status is RunStatus.FAILED and outcome.kind is FailureKind.QUOTA and not outcome.permanent
    return is_limit and bool(settings.limit_pools)  # runs of earlier versions know none


def _wait(outcome: Outcome, settings: RunSettings, attempts: int, now: datetime, chance: float) -> timedelta | None:
    """Return how long the next attempt waits, None if there is none after so many of those that count."""
    if outcome.status is RunStatus.INTERRUPTED:
        return timedelta(0) if settings.on_interrupt == "rerun" and attempts < _MOST_RERUNS else None
    if outcome.status is not RunStatus.FAILED or outcome.permanent or attempts >= settings.attempts:
        return None
    if outcome.retry_after is not None:
        return outcome.retry_after
    if outcome.limit_ends_at is not None:
        return max(timedelta(0), outcome.limit_ends_at - now)
    return retry_delay(timedelta(seconds=settings.retry_delay_seconds), attempts, chance)


def _was_refused(run: Run, outcome: Outcome, settings: RunSettings) -> bool:
    """Return whether a command did nothing but refuse the session it was given; the next attempt gets none."""
    return outcome.session_refused is not None and run.resumed_session is not None and settings.kind == "command"


def _continue(tx: Transaction, run: Run, now: datetime, columns: dict[str, object], new: NewRun) -> None:
    """Create the next attempt at the work of a run; one that only hit a limit waits for its pools alone."""
    next_id, _ = create_run(tx, new, now)
    wait = {} if new.not_before is None else {"not_before": format_instant(new.not_before)}
    add_event(tx, run.id, now, "continued", {"run_id": next_id, **wait})
    change_status(tx, run, RunStatus.CONTINUED_AS_NEW, now, {**columns, "next_run_id": next_id})


def _end(
    tx: Transaction, run: Run, outcome: Outcome, now: datetime, columns: dict[str, object], outbox: Outbox
) -> None:
    """Record the final status of a run that gets no further attempt."""
    change_status(tx, run, outcome.status, now, columns)
    paused = outcome.status is RunStatus.FAILED and _pause_on_failure(tx, run, now)
    outbox.add_run_end(tx, run, outcome, now, paused=paused)


def _pause_on_failure(tx: Transaction, run: Run, now: datetime) -> bool:
    """Pause the schedule of a failed run if it is to be; return whether it was paused."""
    row = get_schedule_by_id(tx, run.schedule_id) if run.schedule_id else None
    if row is None or row.paused or row.deleted_at or not row.definition["pause_on_failure"]:
        return False
    note = f"run {run.id} failed {PAUSED_BY_FAILURE}"
    values = {"paused": 1, "paused_at": format_instant(now), "pause_note": note}
    change_schedule(
        tx, row, values, now, principal=CONFIG_PRINCIPAL, action="pause", changes={"paused": [False, True]}, note=note
    )
    return True
