"""The words of agentcron as types: statuses, outcomes, triggers, policies and the two kinds of time."""

import re
from datetime import datetime
from enum import StrEnum
from typing import NewType

DueTime = NewType("DueTime", datetime)
"""The nominal instant (UTC) at which a schedule should fire."""

WakeTime = NewType("WakeTime", datetime)
"""The instant (UTC) at which the daemon looked at its schedules."""


NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
"""What agents, schedules and environments are called."""

DATABASE = "state.db"
"""The database's file in the state directory."""

DATABASE_PARTS = ("", "-journal", "-wal", "-shm")
"""What SQLite may put behind that name (sqlite.org/tempfiles.html); the first is the database itself."""

OWN_TABLES = frozenset({"instance", "schedules", "fires", "runs"})
"""By which a database is known as one of agentcron's."""

WITNESS = "witness.json"
"""What tells a lost database from a new one, in the state directory."""

HOOK_KEY = "hook.key"
"""What the tokens of hooks are derived from, in the state directory."""

LOCK = "daemon.lock"
"""Held by the daemon of a state directory."""

STATE_FOLDERS = ("runs", "environments")
"""What runs leave, and what they work in, in the state directory."""

CONFIG_PRINCIPAL = "config"
"""Who declares the schedules of the config file; it has every right."""


class RunStatus(StrEnum):
    """Where a run stands; the first three are active, the others terminal."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    CONTINUED_AS_NEW = "continued_as_new"


ACTIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUSPENDED})


class FireOutcome(StrEnum):
    """What became of one due time."""

    LAUNCHED = "launched"
    BUFFERED = "buffered"
    SKIPPED_OVERLAP = "skipped_overlap"
    SKIPPED_PAUSED = "skipped_paused"
    SKIPPED_REQUESTED = "skipped_requested"
    SKIPPED_MISSED = "skipped_missed"
    SKIPPED_PERMISSION_DENIED = "skipped_permission_denied"
    SKIPPED_AGENT_DELETED = "skipped_agent_deleted"
    SKIPPED_BUDGET = "skipped_budget"


class Trigger(StrEnum):
    """Why a run exists."""

    SCHEDULED = "scheduled"
    MANUAL = "manual"
    BACKFILL = "backfill"
    CATCHUP = "catchup"
    RETRY = "retry"


QUEUE_CLASS = {
    Trigger.SCHEDULED: 0,
    Trigger.MANUAL: 0,
    Trigger.RETRY: 1,
    Trigger.CATCHUP: 2,
    Trigger.BACKFILL: 3,
}
"""The lower class starts first; within a class the earlier due time does."""


class Overlap(StrEnum):
    """What a due time does while an earlier run of its schedule is unfinished."""

    SKIP = "skip"
    BUFFER_ONE = "buffer_one"
    BUFFER_ALL = "buffer_all"
    CANCEL_OTHER = "cancel_other"
    TERMINATE_OTHER = "terminate_other"
    ALLOW_ALL = "allow_all"


class Catchup(StrEnum):
    """Which of the due times missed while the daemon was away are started after all."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


class Step(StrEnum):
    """The stages of a run, in their order."""

    WORKSPACE = "workspace"
    DELIVER = "deliver"
    WORK = "work"
    RECORD = "record"
