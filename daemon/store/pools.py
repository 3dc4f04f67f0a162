"""Rows of `pool_closures`, each of which keeps a pool closed while it exists, and which runs hold places in pools."""

import json
import sqlite3
from collections.abc import Collection, Iterable, Sequence
from datetime import UTC, datetime, timedelta

from daemon.rules.pools import Cause, Closure, count_places
from daemon.store.connection import Transaction
from daemon.units import format_instant, parse_instant

_PASSED = datetime.min.replace(tzinfo=UTC)
_MOST_TOLD = 100  # waiting runs that are looked up at once


def closures(source: Transaction | sqlite3.Connection) -> list[Closure]:
    """Return what keeps pools closed; a row that somebody edited badly has ended."""
    return [_closure_from(row) for row in source.execute("SELECT * FROM pool_closures")]


def _closure_from(row: sqlite3.Row) -> Closure:
    until = None if row["until"] is None else _instant(row["until"])
    since, cause = _instant(row["since"]), Cause(row["cause"])
    return Closure(row["pool"], cause, since, until, row["reason"], row["agent"], row["run_id"], row["principal"])


def _instant(text: str) -> datetime:
    try:
        return parse_instant(text)
    except ValueError:
        return _PASSED


def close_pool(tx: Transaction, closure: Closure) -> bool:
    """Close a pool, or keep it closed until a later time; return whether that changes anything.

    A pause replaces an earlier one; whatever an agent meets never opens a pool earlier than another agent said.
    """
    known = tx.execute(
        "SELECT until FROM pool_closures WHERE pool = ? AND cause = ?", (closure.pool, closure.cause)
    ).fetchone()
    until = None if closure.until is None else format_instant(closure.until)
    if known is not None and closure.cause is not Cause.PAUSE and (until is None or known["until"] >= until):
        return False
    since = format_instant(closure.since)
    tx.execute(
        "INSERT INTO pool_closures (pool, cause, since, until, reason, agent, run_id, principal) "
        "VALUES (?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8) ON CONFLICT (pool, cause) DO UPDATE SET until = ?4, reason = ?5, "
        "since = CASE WHEN cause = 'limit' THEN ?3 ELSE since END, agent = ?6, run_id = ?7, principal = ?8",
        (
            *(closure.pool, closure.cause, since, until, closure.reason),
            *(closure.agent, closure.run_id, closure.principal),
        ),
    )
    tx.changes.count("pool", closure.pool)
    return True


def end_closures(tx: Transaction, ended: Iterable[Closure]) -> None:
    """Remove what kept pools closed."""
    for closure in ended:
        tx.execute("DELETE FROM pool_closures WHERE pool = ? AND cause = ?", (closure.pool, closure.cause))
        tx.changes.count("pool", closure.pool)


def limit_of(tx: Transaction, pools: Sequence[str], now: datetime) -> Closure | None:
    """Return the limit that keeps any of some pools closed the longest, None if none does."""
    if not pools:
        return None
    row = tx.execute(
        "SELECT * FROM pool_closures WHERE cause = 'limit' AND until > ? "
        "AND pool IN (SELECT value FROM json_each(?)) ORDER BY until DESC LIMIT 1",
        (format_instant(now), json.dumps([*pools])),
    ).fetchone()
    return None if row is None else _closure_from(row)


def rebase_closures(tx: Transaction, now: datetime) -> None:
    """After the clock was set back, let limits that were met in what is the future again last as long as before."""
    for closure in closures(tx):
        if closure.since > now and closure.until is not None and closure.cause is Cause.LIMIT:
            until = now + max(timedelta(0), closure.until - closure.since)
            tx.execute(
                "UPDATE pool_closures SET since = ?, until = ? WHERE pool = ? AND cause = ?",
                (format_instant(now), format_instant(until), closure.pool, closure.cause),
            )


def places_taken(source: Transaction | sqlite3.Connection) -> dict[str, int]:
    """Return how many running and suspended runs hold a place in each pool."""
    rows = source.execute(
        "SELECT pools, count(*) AS n FROM runs WHERE pools IS NOT NULL AND completed_at IS NULL "
        "AND status IN ('running', 'suspended') GROUP BY pools"
    )
    return count_places((row["pools"], row["n"]) for row in rows)


def pending_by_agent(source: Transaction | sqlite3.Connection) -> dict[str, int]:
    """Return how many runs of each agent wait in the queue."""
    rows = source.execute(
        "SELECT agent, count(*) AS n FROM runs WHERE completed_at IS NULL AND status = 'pending' GROUP BY agent"
    )
    return {row["agent"]: row["n"] for row in rows}


def waiting_runs(tx: Transaction, agents: Iterable[str], told: Collection[int]) -> list[tuple[int, str]]:
    """Return number and agent of the pending runs of some agents, oldest first, without those that are known."""
    rows = tx.execute(
        "SELECT id, agent FROM runs WHERE completed_at IS NULL AND status = 'pending' "
        "AND agent IN (SELECT value FROM json_each(?)) AND id NOT IN (SELECT value FROM json_each(?)) "
        "ORDER BY id LIMIT ?",
        (json.dumps(sorted(agents)), json.dumps([*told]), _MOST_TOLD),
    )
    return [(row["id"], row["agent"]) for row in rows]
