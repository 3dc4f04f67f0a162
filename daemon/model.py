"""The vocabulary of agentcron as types: statuses, outcomes, triggers, policies and the two kinds of time."""

import re
from datetime import datetime
from enum import StrEnum
from typing import NewType

DueTime = NewType("DueTime", datetime)
"""The nominal instant (UTC) at which a schedule should fire."""

WakeTime = NewType("WakeTime", datetime)
"""The instant (UTC) at which the daemon checked its schedules."""


NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,62}[a-z0-9])?")
"""The pattern of the names of agents, schedules and environments."""

DATABASE = "state.db"
"""The database's file in the state directory."""

DATABASE_PARTS = ("", "-journal", "-wal", "-shm")
"""Suffixes of the files that SQLite may create (sqlite.org/tempfiles.html); the first is the database itself."""

IDEMPOTENCY_KEY = re.compile(r"[!-~]{1,255}")
"""The pattern of the keys under which a repeated request returns the same run."""

LARGEST_BODY = 1024 * 1024
"""The most bytes of a request's body, and so of the input that a request can bring."""

OWN_TABLES = frozenset({"instance", "schedules", "fires", "runs"})
"""A database with these tables is one of agentcron's."""

WITNESS = "witness.json"
"""The file in the state directory that tells a lost database from a new one."""

HOOK_KEY = "hook.key"
"""The file in the state directory with the key that hook tokens are derived from."""

LAST_CONFIG = "last-config.toml"
"""The file in the state directory with a copy of the config that was in force last."""

LOCK = "daemon.lock"
"""The file in the state directory that its daemon locks."""

STATE_FOLDERS = ("runs", "environments")
"""The folders in the state directory: files of runs, and environments with their workspaces."""

CONFIG_PRINCIPAL = "config"
"""The principal that declares the config file's schedules; it has every right."""


class RunStatus(StrEnum):
    """The status of a run; the first three are active, the others terminal."""

    PENDING = "pending"
    RUNNING = "running"
    SUSPENDED = "suspended"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    INTERRUPTED = "interrupted"
    CONTINUED_AS_NEW = "continued_as_new"


ACTIVE = frozenset({RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUSPENDED})


class FailureKind(StrEnum):
    """Why a run failed, as far as it decides what helps: waiting, a login, another setting, or a person who looks."""

    AUTH = "auth"
    """The agent is not signed in, or its key is not valid."""
    QUOTA = "quota"
    """A limit of its account is used up, which is reset at some time, or its credit is spent."""
    OVERLOADED = "overloaded"
    """Its provider cannot answer at the moment."""
    CONFIG = "config"
    """Its command, its settings, or its model do not exist or do not fit."""
    REFUSED = "refused"
    """The model declined the task."""
    DENIED = "denied"
    """It was not allowed to do what it needed to do."""
    TIMEOUT = "timeout"
    """It took longer than a time limit."""
    CRASHED = "crashed"
    """A signal ended it, or it ran out of memory."""
    FAILED = "failed"
    """Anything else."""


class FireOutcome(StrEnum):
    """What happened to one due time."""

    LAUNCHED = "launched"
    BUFFERED = "buffered"
    SKIPPED_OVERLAP = "skipped_overlap"
    SKIPPED_PAUSED = "skipped_paused"
    SKIPPED_REQUESTED = "skipped_requested"
    SKIPPED_MISSED = "skipped_missed"
    SKIPPED_PERMISSION_DENIED = "skipped_permission_denied"
    SKIPPED_AGENT_DELETED = "skipped_agent_deleted"
    SKIPPED_BUDGET = "skipped_budget"
    SKIPPED_QUOTA = "skipped_quota"


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
"""The queue's order: the lower class starts first, within a class the earlier due time."""


class Overlap(StrEnum):
    """What a due time does while an earlier run of its schedule is unfinished."""

    SKIP = "skip"
    BUFFER_ONE = "buffer_one"
    BUFFER_ALL = "buffer_all"
    CANCEL_OTHER = "cancel_other"
    TERMINATE_OTHER = "terminate_other"
    ALLOW_ALL = "allow_all"


class Catchup(StrEnum):
    """Which due times missed while the daemon was stopped or the host asleep are started later."""

    LATEST = "latest"
    ALL = "all"
    NONE = "none"


class SessionPolicy(StrEnum):
    """Which session of its agent a run of a schedule works in."""

    NEW = "new"
    CONTINUE = "continue"
    """That of the last run which completed."""


class Step(StrEnum):
    """The steps of a run, in order."""

    WORKSPACE = "workspace"
    DELIVER = "deliver"
    WORK = "work"
    RECORD = "record"
