"""The queue of runs: which of them wait, which may start now, and how many take the slots."""

import json
import sqlite3
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.errors import DamagedRowError
from daemon.model import RunStatus
from daemon.rules.pools import EVERYTHING
from daemon.store.connection import Transaction
from daemon.store.runs import REQUESTED, SELECT_RUNS_WITHOUT_INPUT, Run, run_from, update_run
from daemon.store.unfinished_runs import readable_runs
from daemon.units import format_instant, parse_instant


def startable(
    tx: Transaction,
    now: datetime,
    full_agents: Iterable[str],
    limit: int,
    without: Collection[int] = (),
    for_people: Collection[str] = (),
) -> tuple[list[Run], dict[int, DamagedRowError]]:
    """Return the head of the queue: the pending runs that may start now, in order, `without` some and without inputs.

    Those that cannot be read are not among them; why is returned by their number.

    A held run waits until its schedule has no unfinished run of an earlier due time, including later attempts at that.
    A new attempt waits for its `not_before`. Of a paused schedule, and of the agents `for_people`, only what a person
    requested starts, of a deleted schedule nothing.
    """
    lists = [json.dumps(sorted(full_agents)), *([json.dumps([*for_people])] if for_people else [])]
    lists += [json.dumps([*without])] if without else []
    rows = tx.execute(
        f"{SELECT_RUNS_WITHOUT_INPUT} WHERE r.status = 'pending' AND (r.not_before IS NULL OR r.not_before <= ?) "
        "AND r.agent NOT IN (SELECT value FROM json_each(?)) "
        f"{f'AND (r.agent NOT IN (SELECT value FROM json_each(?)) OR {REQUESTED}) ' if for_people else ''}"
        f"AND s.deleted_at IS NULL AND (coalesce(s.paused, 0) = 0 OR {REQUESTED}) "
        "AND NOT (r.held AND EXISTS (SELECT 1 FROM runs o WHERE o.schedule_id = r.schedule_id "
        "AND (o.scheduled_for, o.id) < (r.scheduled_for, r.id) AND o.completed_at IS NULL)) "
        f"{'AND r.id NOT IN (SELECT value FROM json_each(?)) ' if without else ''}"
        "ORDER BY r.queue_class, r.scheduled_for, r.id LIMIT ?",
        (format_instant(now), *lists, limit),
    )
    return readable_runs(rows)


def next_attempt_at(tx: Transaction, now: datetime) -> datetime | None:
    """Return when the next waiting attempt may start, None if there is none; in a minute if its row is damaged."""
    row = tx.execute(
        "SELECT min(not_before) AS at FROM runs WHERE status = 'pending' AND not_before > ?",
        (format_instant(now),),
    ).fetchone()
    try:
        return parse_instant(row["at"]) if row["at"] else None
    except ValueError:
        return now + timedelta(minutes=1)


@dataclass(frozen=True)
class StartFacts:
    """What decides whether a run that was claimed may still start."""

    is_running: bool
    is_cancelled: bool
    """Whether somebody asked to cancel it."""
    is_paused: bool
    is_deleted: bool
    """The last two are about its schedule; a run that a person requested passes a pause."""
    closed_pool: str | None = None
    """A pool that it holds a place in, and that has been closed since it was claimed."""


def start_facts(source: Transaction | sqlite3.Connection, run_id: int) -> StartFacts:
    """Return whether a run is still running and wanted, and whether its schedule lets it start."""
    row = source.execute(
        f"SELECT r.status, coalesce(s.paused, 0) AND NOT {REQUESTED} AS paused, s.deleted_at IS NOT NULL AS deleted, "
        "EXISTS (SELECT 1 FROM cancellation_flags f WHERE f.run_id = r.id) AS cancelled, "
        "(SELECT c.pool FROM pool_closures c WHERE c.pool IN (?, 'agent:' || r.agent) "
        "OR (r.pools IS NOT NULL AND EXISTS (SELECT 1 FROM json_each(r.pools) p WHERE p.value = c.pool)) LIMIT 1) "
        "AS closed_pool "
        "FROM runs r LEFT JOIN schedules s ON s.id = r.schedule_id WHERE r.id = ?",
        (EVERYTHING, run_id),
    ).fetchone()
    if row is None:
        return StartFacts(is_running=False, is_cancelled=False, is_paused=False, is_deleted=False)
    return StartFacts(
        is_running=row["status"] == RunStatus.RUNNING,
        is_cancelled=bool(row["cancelled"]),
        is_paused=bool(row["paused"]),
        is_deleted=bool(row["deleted"]),
        closed_pool=row["closed_pool"],
    )


def rebase_waits(tx: Transaction, now: datetime) -> None:
    """After the clock was set back, restart the waits of attempts from now, with the length they had."""
    rows = tx.execute(
        "SELECT id, not_before, updated_at FROM runs WHERE status = 'pending' AND not_before > ?1 AND updated_at > ?1",
        (format_instant(now),),
    ).fetchall()
    for row in rows:
        try:
            wait = max(timedelta(0), parse_instant(row["not_before"]) - parse_instant(row["updated_at"]))
        except ValueError:  # the row is damaged: it has waited long enough
            wait = timedelta(0)
        update_run(tx, row["id"], now, not_before=format_instant(now + wait))


def occupied(tx: Transaction) -> tuple[int, dict[str, int]]:
    """Return how many runs are running, and how many each agent has running or suspended."""
    rows = tx.execute(
        "SELECT agent, status, count(*) AS n FROM runs WHERE completed_at IS NULL "
        "AND status IN ('running', 'suspended') GROUP BY 1, 2"
    ).fetchall()
    by_agent: dict[str, int] = {}
    for row in rows:
        by_agent[row["agent"]] = by_agent.get(row["agent"], 0) + row["n"]
    return sum(row["n"] for row in rows if row["status"] == RunStatus.RUNNING), by_agent


def count_pending(source: Transaction | sqlite3.Connection) -> int:
    """Return how many runs wait in the queue."""
    return int(source.execute("SELECT count(*) AS n FROM runs WHERE status = ?", (RunStatus.PENDING,)).fetchone()["n"])


def count_held_back(source: Transaction | sqlite3.Connection) -> int:
    """Return how many runs wait in the queue because their schedules are paused."""
    row = source.execute(
        "SELECT count(*) AS n FROM runs r JOIN schedules s ON s.id = r.schedule_id "
        f"WHERE r.status = 'pending' AND s.paused = 1 AND NOT {REQUESTED}"
    ).fetchone()
    return int(row["n"])


def waiting_of(tx: Transaction, schedule_id: int) -> list[Run]:
    """Return the pending runs of a schedule without their inputs, by due time."""
    rows = tx.execute(
        f"{SELECT_RUNS_WITHOUT_INPUT} WHERE r.schedule_id = ? AND r.completed_at IS NULL AND r.status = 'pending' "
        "ORDER BY r.scheduled_for, r.id",
        (schedule_id,),
    )
    return [run_from(row) for row in rows]


def waiting_without_schedule(tx: Transaction) -> list[int]:
    """Return the numbers of the pending runs whose schedule is deleted, oldest first."""
    rows = tx.execute(
        "SELECT r.id FROM runs r JOIN schedules s ON s.id = r.schedule_id "
        "WHERE r.status = 'pending' AND s.deleted_at IS NOT NULL ORDER BY r.id"
    )
    return [int(row["id"]) for row in rows]
