"""What a run hands to an agent, what comes back, and what every kind of agent can do."""

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol

from daemon.config.schema import AgentexAgent, CommandAgent
from daemon.model import RunStatus

_DEFAULTS = CommandAgent(command=["true"])  # the config schema states every default


@dataclass(frozen=True)
class Identity:
    """A process of this host that no other process, now or later, is mistaken for."""

    boot_id: str
    pid: int
    started: int
    """Clock ticks after boot, as proc(5) gives them."""


@dataclass(frozen=True)
class RunSettings:
    """The agent's settings as they were when the run started: the only place that limits are read from later.

    They are stored with the run as JSON, so a reload does not change them and the next daemon finds them. They hold no
    secrets. A field that an earlier version did not store has its default.
    """

    kind: Literal["command", "agentex", "a2a", "acp"] = _DEFAULTS.type
    attempts: int = _DEFAULTS.attempts
    retry_delay_seconds: float = _DEFAULTS.retry_delay.total_seconds()
    on_interrupt: Literal["fail", "rerun"] = _DEFAULTS.on_interrupt
    result_format: Literal["none", "claude"] = _DEFAULTS.result_format
    timeout_seconds: float = _DEFAULTS.timeout.total_seconds()
    idle_timeout_seconds: float | None = None
    kill_grace_seconds: float = _DEFAULTS.kill_grace.total_seconds()
    max_output: int = _DEFAULTS.max_output
    """Bytes."""
    memory_max: int | None = _DEFAULTS.memory_max
    """Bytes."""
    cpu_quota: float | None = _DEFAULTS.cpu_quota
    """In CPUs: 2.0 is two whole CPUs."""
    url: str = ""
    acp_type: Literal["sync", "agentic", "async"] = AgentexAgent.model_fields["acp_type"].default
    await_completion: bool = AgentexAgent.model_fields["await_completion"].default


@dataclass(frozen=True)
class Work:
    """One run as its agent sees it."""

    run_id: int
    run_name: str
    agent: str
    schedule: str
    """The schedule's name, empty for a run without one."""
    scheduled_for: str
    attempt: int
    trigger: str
    idempotency_key: str
    author: str
    content: str
    params: dict[str, Any]
    metadata: dict[str, Any]
    """What the agent is told of the task, its hook's URL included."""
    created_at: str
    run_dir: Path
    workspace: Path
    settings: RunSettings
    hook_token: str | None = None
    """By which the agent may end the run from outside; a secret."""
    spent_seconds: float = 0.0
    """What of the run's timeout was spent before its agent could begin, or by an earlier daemon."""
    locks_workspace: bool = False
    """Whether the workspace is the run's own, and is marked as in use while it runs."""
    identity: Identity | None = None
    """The supervisor that an earlier daemon left behind."""
    delivered: bool = False
    """Whether the earlier daemon knew that the agent was let loose, or had the input."""
    remote: dict[str, Any] | None = None
    """Where the work of a suspended run goes on, in the terms of its protocol; None for a run that is not suspended."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as data."""

    status: RunStatus
    error: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    cancelled_by_us: bool = False
    """Whether the end was asked for by a daemon, and not from outside."""
    permanent: bool = False
    """Whether another attempt could not end otherwise."""
    retry_after: timedelta | None = None
    usage: dict[str, Any] = field(default_factory=dict)
    output_bytes: int | None = None
    output_dropped: int | None = None
    memory_peak: int | None = None
    """Bytes: the most that the run held at once, or, where that is not counted, its largest process."""
    cpu_seconds: float | None = None
    ended_at: datetime | None = None
    """When the work ended, if that was not just now."""


@dataclass(frozen=True)
class NeverStarted:
    """The agent was not let loose, for certain; the run can be started as if for the first time."""

    reason: str
    again_after: timedelta = timedelta(0)


@dataclass(frozen=True)
class Journal:
    """How an agent has the stages of a delivery committed; each returns once it is on disk."""

    identified: Callable[[Identity], Awaitable[None]]
    """A process will own the agent's command."""
    delivered: Callable[[], Awaitable[None]]
    """The agent has the input."""
    suspended: Callable[[dict[str, Any]], Awaitable[bool]]
    """The work goes on elsewhere; returns whether the run was active still."""
    tried: Callable[[int, str, float | None], Awaitable[None]]
    """A try failed: its number, the reason, and the seconds until the next one, None if there is none."""


class Stoppable(Protocol):
    """What a run is busy with, and can be told to end."""

    def stop(self, *, at_once: bool) -> None:
        """Ask for the end of the work."""

    def note_cancellation(self, told: str) -> None:
        """Leave word that the end is wanted, for a daemon that finds no flag in the database."""


class Agent(Stoppable, Protocol):
    """A kind of agent; one instance serves one run, and `run` or `resume` returns after a `stop`."""

    async def run(self, work: Work, journal: Journal) -> Outcome | NeverStarted:
        """Deliver the input and stay until the work has ended."""

    async def resume(self, work: Work) -> Outcome | NeverStarted:
        """Take over a run that an earlier daemon began, or find out how it ended."""
