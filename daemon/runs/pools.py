"""Closes pools after what runs met, and opens them again: each change is committed with its notification."""

from collections.abc import Callable, Iterable
from datetime import datetime, timedelta

from daemon.agents.base import Outcome, RunSettings
from daemon.model import FailureKind, RunStatus
from daemon.notify.outbox import Notice, Outbox
from daemon.rules.pools import EVERYTHING, Cause, Closure, end_of_limit, owner_of, title
from daemon.store.changes import PoolChange
from daemon.store.connection import Transaction
from daemon.store.pools import close_pool, closures, end_closures
from daemon.store.runs import Run
from daemon.units import format_instant

_LONGEST_REASON = 300  # characters
RESET, PROBED, UNPROBED = "its limit was reset", "its probe passed", "it has no probe any more"
PAUSE_OVER = "its pause is over"
"""Why a pool opens."""


def close_by_outcome(
    tx: Transaction,
    run: Run,
    outcome: Outcome,
    settings: RunSettings,
    now: datetime,
    *,
    hits: int,
    chance: float,
    outbox: Outbox,
) -> None:
    """Close the pools of a run that hit a limit of its account, or that was not signed in.

    `hits` tells how many attempts in a row, this one included, hit a limit. Spent credit closes nothing, since nobody
    knows when there is more.
    """
    if outcome.status is not RunStatus.FAILED:
        return
    reason = " ".join((outcome.error or "").split())[:_LONGEST_REASON]
    if outcome.kind is FailureKind.QUOTA and (not outcome.permanent or outcome.limit_ends_at):
        delay = timedelta(seconds=settings.retry_delay_seconds)
        until = end_of_limit(_reset_of(outcome, now), now, hits, delay, chance)
        for pool in settings.limit_pools:
            _close(tx, Closure(pool, Cause.LIMIT, now, until, reason, run.agent, run.id), outbox)
    elif outcome.kind is FailureKind.AUTH:
        for pool in settings.login_pools:
            _close(tx, Closure(pool, Cause.LOGIN, now, None, reason, run.agent, run.id), outbox)


def _reset_of(outcome: Outcome, now: datetime) -> datetime | None:
    """Return when the limit that a run hit is reset, None if that is not known."""
    if outcome.limit_ends_at is not None or outcome.retry_after is None:
        return outcome.limit_ends_at
    return (outcome.ended_at or now) + outcome.retry_after


def _close(tx: Transaction, closure: Closure, outbox: Outbox) -> None:
    was_closed = any(_is_closed_by_run(known) for known in closures(tx) if known.pool == closure.pool)
    if not close_pool(tx, closure):
        return
    tx.changes.pools.append(PoolChange(closure.pool, "closed", closure.reason, closure.until, run_id=closure.run_id))
    if not was_closed:
        outbox.add(tx, [_notice("pool_closed", closure, f"{closure.text} (run {closure.run_id})")], closure.since)


def _is_closed_by_run(closure: Closure) -> bool:
    return closure.cause is not Cause.PAUSE


def pause_pool(tx: Transaction, pool: str, now: datetime, until: datetime | None, note: str, principal: str) -> Closure:
    """Pause a pool, or everything, until a time or (None) until it is resumed; return the pause."""
    closure = Closure(pool, Cause.PAUSE, now, until, note, principal=principal)
    close_pool(tx, closure)
    tx.changes.pools.append(PoolChange(pool, "paused", note, until, principal=principal))
    return closure


def resume_pool(tx: Transaction, pool: str, now: datetime, principal: str, outbox: Outbox) -> list[Closure]:
    """End whatever keeps a pool closed; of everything, all pauses, but nothing that agents met. Return what ended."""
    ended = [
        closure
        for closure in closures(tx)
        if closure.pool == pool or (pool == EVERYTHING and closure.cause is Cause.PAUSE)
    ]
    _open(tx, ended, now, lambda _: f"resumed by {principal}", outbox)
    return ended


def open_ended(tx: Transaction, known: Iterable[Closure], now: datetime, outbox: Outbox) -> list[Closure]:
    """Open the pools whose time has come; return what still keeps pools closed."""
    known = list(known)
    ended = [closure for closure in known if closure.until is not None and closure.until <= now]
    _open(tx, ended, now, lambda one: PAUSE_OVER if one.cause is Cause.PAUSE else RESET, outbox)
    return [closure for closure in known if closure not in ended]


def open_probed(tx: Transaction, pool: str, now: datetime, reason: str, outbox: Outbox) -> None:
    """Open a pool that was closed because a run was not signed in."""
    ended = [closure for closure in closures(tx) if closure.pool == pool and closure.cause is Cause.LOGIN]
    _open(tx, ended, now, lambda _: reason, outbox)


def _open(tx: Transaction, ended: list[Closure], now: datetime, why: Callable[[Closure], str], outbox: Outbox) -> None:
    """Remove closures; what a run closed is reported as open once no other run's words keep it closed."""
    if not ended:
        return
    end_closures(tx, ended)
    left = closures(tx)
    for closure in {one.pool: one for one in sorted(ended, key=_is_closed_by_run)}.values():
        is_pause = closure.cause is Cause.PAUSE
        tx.changes.pools.append(PoolChange(closure.pool, "resumed" if is_pause else "opened", why(closure)))
        others = [one for one in left if one.pool in {closure.pool, EVERYTHING}]
        if _is_closed_by_run(closure) and not any(_is_closed_by_run(one) for one in others):
            but = f", but {others[0].text}" if others else ""
            text = f"{title(closure.pool)} is open again: {why(closure)}{but}"
            outbox.add(tx, [_notice("pool_opened", closure, text)], now)


def _notice(kind: str, closure: Closure, text: str) -> Notice:
    details = {
        "pool": closure.pool,
        "reason": closure.reason,
        "closed_at": format_instant(closure.since),
        "until": None if closure.until is None else format_instant(closure.until),
        "run_id": closure.run_id,
    }
    owner = owner_of(closure.pool)
    return Notice(kind, text, agent=owner, pool=closure.pool if owner is None else None, details=details)
