"""Rows of `runs`: creation, compare-and-set status changes, attempts, and usage."""

import sqlite3
import uuid
from collections.abc import Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from types import MappingProxyType

from daemon.errors import StaleStatusError
from daemon.model import ACTIVE, QUEUE_CLASS, RunStatus, Trigger
from daemon.rules.states import is_allowed
from daemon.store.changes import StatusChange
from daemon.store.connection import Transaction
from daemon.store.events import add_event, end_open_steps
from daemon.store.rows import LONGEST_GIVEN, UNREADABLE, damaged, given, shown
from daemon.units import format_instant, parse_instant

MICRO = 1_000_000
"""Micro-dollars per US dollar, the unit in which the metrics count cost."""
REQUESTED = (
    "(r.trigger = 'manual' OR (r.trigger = 'retry' AND (r.name GLOB '*:manual-*' OR "
    "(SELECT p.status FROM runs p WHERE p.id = r.previous_run_id) <> 'continued_as_new')))"
)
"""Whether a person asked for this very run `r`: by a trigger, whose further attempts belong to it, or by a retry."""
_JOINED = {
    "schedule": "s.name",
    "timezone": "s.timezone",
    "schedule_paused": "coalesce(s.paused, 0)",
    "schedule_deleted": "s.deleted_at IS NOT NULL",
    "requested": REQUESTED,
    "previous_session": "(SELECT p.session FROM runs p WHERE p.id = r.previous_run_id)",
}
_FIXED = 200  # bytes of a row besides its texts
_SHOWN = {name: shown(f"r.{name}") for name in ("display_name", "error", "message")}
_GIVEN = {"input_content": "input", "task_params": "params", "task_metadata": "metadata"}
"""What the agent is given, by column, and what people call it."""
_READ = {name: given(f"r.{name}") for name in (*_GIVEN, "settings", "remote")}


@dataclass(frozen=True)
class Run:
    """One row of `runs`, with its schedule's name and zone; times are UTC text."""

    id: int
    name: str
    agent: str
    schedule: str | None
    timezone: str | None
    """The schedule's."""
    schedule_paused: int
    schedule_deleted: int
    requested: int
    """Whether a person asked for this very run, by a trigger or a retry; a pause does not hold it back."""
    schedule_id: int | None
    trigger: Trigger
    scheduled_for: str
    attempt: int
    status: RunStatus
    created_at: str
    started_at: str | None
    delivered_at: str | None
    completed_at: str | None
    updated_at: str
    exit_code: int | None
    signal: int | None
    error: str | None
    message: str | None
    display_name: str
    creator: str
    idempotency_key: str
    input_author: str
    input_content: str
    task_params: str
    task_metadata: str
    settings: str | None
    not_before: str | None
    held: int
    previous_run_id: int | None
    next_run_id: int | None
    boot_id: str | None
    pid: int | None
    pid_started: int | None
    remote: str | None
    output_bytes: int | None
    output_dropped: int | None
    input_tokens: int | None
    output_tokens: int | None
    cost_usd: float | None
    memory_peak_bytes: int | None
    cpu_seconds: float | None
    failure_kind: str | None
    session: str | None
    """Identifies the agent's conversation, as the agent told."""
    resumed_session: str | None
    """The session that the run was given to continue."""
    previous_session: str | None
    """That of the previous attempt."""
    usage_state: str | None
    """`exact` or `at_least`; None if the usage is unknown."""
    denials: int
    """How many permissions the agent was denied."""
    queue_class: int
    pools: str | None
    """JSON: the pools that it has held a place in since it started; None without any."""

    @property
    def address(self) -> str | None:
        """The schedule as `AGENT/NAME`, None for a run without a schedule."""
        return f"{self.agent}/{self.schedule}" if self.schedule else None

    @property
    def is_held_back(self) -> bool:
        """Whether it may not start now, because its schedule is paused."""
        return bool(self.schedule_paused and not self.requested)

    @property
    def unusable(self) -> str | None:
        """Why it must not start, if it was to give its agent more than agentcron ever writes; it was not read whole."""
        for column, name in _GIVEN.items():
            if len(getattr(self, column)) > LONGEST_GIVEN:
                most = f"{LONGEST_GIVEN // 1024**2} MiB"
                return f"its {name} in the database is longer than {most}, which agentcron never writes"
        return None

    @property
    def due(self) -> datetime:
        """The due time, or the time of the request for a manual run."""
        return parse_instant(self.scheduled_for)


_COLUMNS = tuple(field.name for field in fields(Run))
_TRIGGER, _STATUS = _COLUMNS.index("trigger"), _COLUMNS.index("status")
_BULKY = {"input_content": "''", "task_params": "'{}'", "task_metadata": "'{}'", "settings": "NULL"}


def _select(texts: Mapping[str, str]) -> str:
    columns = ", ".join(f"{texts.get(name, f'r.{name}')} AS {name}" for name in _COLUMNS)
    return f"SELECT {columns} FROM runs r LEFT JOIN schedules s ON s.id = r.schedule_id"


SELECT_RUNS = _select(_JOINED | _SHOWN | _READ)
SELECT_RUNS_WITHOUT_INPUT = _select(_JOINED | _SHOWN | _READ | _BULKY)
"""The same without what may take a megabyte a run: its input, parameters, metadata and settings are empty."""


def run_from(row: sqlite3.Row) -> Run:
    """Return the Run in a row of SELECT_RUNS; raise DamagedRowError."""
    values = list(row)  # by position: sqlite3.Row searches all columns for each name
    try:
        values[_TRIGGER], values[_STATUS] = Trigger(values[_TRIGGER]), RunStatus(values[_STATUS])
        return Run(*values)
    except UNREADABLE as error:
        raise damaged(f"run {row['id']}", error) from None


@dataclass(frozen=True)
class NewRun:
    """The values that a run is created with."""

    name: str
    agent: str
    schedule_id: int | None
    trigger: Trigger
    scheduled_for: datetime
    display_name: str
    creator: str
    input_author: str
    input_content: str
    task_params: str
    task_metadata: str
    instance: str
    attempt: int = 1
    held: bool = False
    not_before: datetime | None = None
    previous_run_id: int | None = None
    queue_class: int | None = None
    """Its place in the queue's order, None for that of its trigger."""

    @property
    def idempotency_key(self) -> str:
        """Derived from the run's unique name, so that the same fire always has the same key."""
        return str(uuid.uuid5(uuid.NAMESPACE_OID, f"{self.instance}/{self.name}"))

    @property
    def size(self) -> int:
        """About how many bytes its row takes."""
        texts = (self.input_content, self.task_params, self.task_metadata)
        return _FIXED + sum(len(text.encode()) for text in texts)


def create_run(tx: Transaction, new: NewRun, now: datetime) -> tuple[int, bool]:
    """Get or create the run with that name; return its number and whether it is new."""
    at = format_instant(now)
    created = tx.execute(
        "INSERT INTO runs (name, agent, schedule_id, trigger, scheduled_for, attempt, status, created_at, updated_at, "
        "display_name, creator, idempotency_key, input_author, input_content, task_params, task_metadata, "
        "queue_class, not_before, held, previous_run_id) "
        "VALUES (?, ?, ?, ?, ?, ?, 'pending', ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (name) DO NOTHING",
        (
            new.name,
            new.agent,
            new.schedule_id,
            new.trigger.value,
            format_instant(new.scheduled_for),
            new.attempt,
            at,
            at,
            new.display_name,
            new.creator,
            new.idempotency_key,
            new.input_author,
            new.input_content,
            new.task_params,
            new.task_metadata,
            QUEUE_CLASS[new.trigger] if new.queue_class is None else new.queue_class,
            format_instant(new.not_before) if new.not_before else None,
            int(new.held),
            new.previous_run_id,
        ),
    )
    if created.rowcount == 0:
        return int(tx.execute("SELECT id FROM runs WHERE name = ?", (new.name,)).fetchone()["id"]), False
    run_id = int(created.lastrowid or 0)
    add_event(tx, run_id, now, "created", {"trigger": new.trigger, "attempt": new.attempt})
    tx.changes.count("run", RunStatus.PENDING)
    tx.changes.run_bytes += new.size
    return run_id, True


def get_run(source: Transaction | sqlite3.Connection, run_id: int) -> Run | None:
    """Return a run by its number, None if there is none."""
    row = source.execute(f"{SELECT_RUNS} WHERE r.id = ?", (run_id,)).fetchone()
    return run_from(row) if row else None


def bulk_of(tx: Transaction, run_id: int) -> int:
    """Return about how many bytes the input, parameters and metadata of a run take."""
    query = "SELECT length(input_content) + length(task_params) + length(task_metadata) AS n FROM runs WHERE id = ?"
    return int(tx.execute(query, (run_id,)).fetchone()["n"])


def change_status(
    tx: Transaction,
    run: Run,
    after: RunStatus,
    now: datetime,
    columns: Mapping[str, object] = MappingProxyType({}),
    *,
    note: str | None = None,
) -> None:
    """Move a run from the status it was read with to another; raise StaleStatusError if it has moved since.

    `columns` are set with it. A `note` says why where no error is recorded.
    """
    if not is_allowed(run.status, after):
        raise StaleStatusError(f"run {run.id} cannot go from {run.status} to {after}")
    at = format_instant(now)
    values: dict[str, object] = {"status": after, "updated_at": at}
    if after is RunStatus.RUNNING:
        values["started_at"] = at
    if after not in ACTIVE:
        values["completed_at"] = at
    values |= columns
    assignments = ", ".join(f"{name} = ?" for name in values)
    changed = tx.execute(
        f"UPDATE runs SET {assignments} WHERE id = ? AND status = ?",
        (*values.values(), run.id, run.status),
    ).rowcount
    if changed != 1:
        raise StaleStatusError(f"run {run.id} is not {run.status} any more")
    error = str(columns["error"]) if columns.get("error") else None
    add_event(tx, run.id, now, "status", {"from": run.status, "to": after, **({"error": error} if error else {})})
    ended_at = None
    if after not in ACTIVE:
        ended_at = str(values["completed_at"])
        end_open_steps(tx, run.id, now, error)
        tx.execute("DELETE FROM cancellation_flags WHERE run_id = ?", (run.id,))
    tx.changes.count("run", after)
    if columns.get("failure_kind"):
        tx.changes.count("failure", str(columns["failure_kind"]))
    reason = error or note
    started = None if run.status is RunStatus.PENDING else values.get("started_at", run.started_at)  # old rows have it
    started_at = None if started is None else str(started)
    tx.changes.statuses.append(
        StatusChange(run.id, run.agent, run.address, run.status, after, reason, started_at, ended_at, run.schedule_id)
    )


def update_run(tx: Transaction, run_id: int, now: datetime, **columns: object) -> None:
    """Set columns of a run other than its status."""
    values = {**columns, "updated_at": format_instant(now)}
    assignments = ", ".join(f"{name} = ?" for name in values)
    tx.execute(f"UPDATE runs SET {assignments} WHERE id = ?", (*values.values(), run_id))


def attempts_of(tx: Transaction, base_name: str) -> list[Run]:
    """Return all attempts that share a base name."""
    rows = tx.execute(
        f"{SELECT_RUNS} WHERE r.name = ?1 OR (r.name > ?1 || ':' AND r.name < ?1 || ';')",  # ';' comes after ':'
        (base_name,),
    )
    return [run_from(row) for row in rows if row["name"] == base_name or row["name"][len(base_name) + 1 :].isdigit()]


def limits_hit(tx: Transaction, run: Run, base_name: str) -> tuple[int, int]:
    """Return how many attempts before a run hit a limit of their account, and how many of them directly before it."""
    rows = tx.execute(
        "SELECT name, failure_kind IS 'quota' AND status = 'continued_as_new' AS hit FROM runs "
        "WHERE (name = ?1 OR (name > ?1 || ':' AND name < ?1 || ';')) AND attempt < ?2 ORDER BY attempt DESC",
        (base_name, run.attempt),
    )
    hits = [bool(row["hit"]) for row in rows if row["name"] == base_name or row["name"][len(base_name) + 1 :].isdigit()]
    return sum(hits), [*hits, False].index(False)


def assume_delivered(tx: Transaction, run_id: int) -> None:
    """Note that a run was delivered when it started, for one of which nobody knows better."""
    tx.execute("UPDATE runs SET delivered_at = started_at WHERE id = ?", (run_id,))


def count_usage(tx: Transaction, agent: str, columns: Mapping[str, object]) -> None:
    """Add the usage that a run of an agent reported to the metrics."""
    for name in ("input_tokens", "output_tokens"):
        tokens = columns.get(name)
        if isinstance(tokens, int):
            tx.changes.count(name, agent, tokens)
    cost = columns.get("cost_usd")
    if isinstance(cost, float):
        tx.changes.count("cost_usd", agent, round(cost * MICRO))
