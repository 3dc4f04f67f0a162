"""The interface between a run and its agent: what an agent gets, what it returns, and what every agent can do."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

from daemon.agents.process.supervisor.mask import Secrets
from daemon.config.schema import AgentexAgent, CommandAgent
from daemon.model import FailureKind, FireOutcome, RunStatus
from daemon.units import format_duration

_DEFAULTS = CommandAgent.model_construct(command=["true"])  # the config schema states every default


@dataclass(frozen=True)
class Identity:
    """Identifies one process: no other process, now or later, has the same three values."""

    boot_id: str
    pid: int
    started: int
    """Clock ticks since boot (proc(5), starttime)."""


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
    result_format: str = "none"
    """What the output is read as: never `auto`, but what that stood for."""
    on_bad_report: Literal["fail", "ignore"] = "ignore"
    """What a report that cannot be used does to the run; earlier versions ignored it."""
    on_denied: Literal["fail", "ignore"] = "ignore"
    """What a denied permission does to a run that completed; earlier versions ignored it."""
    timeout_seconds: float = _DEFAULTS.timeout.total_seconds()
    idle_timeout_seconds: float | None = None
    kill_grace_seconds: float = _DEFAULTS.kill_grace.total_seconds()
    max_output: int = _DEFAULTS.max_output
    """Bytes."""
    memory_max: int | None = _DEFAULTS.memory_max
    """Bytes."""
    cpu_quota: float | None = _DEFAULTS.cpu_quota
    """In CPUs: 2.0 is two whole CPUs."""
    tasks_max: int | None = None
    """Processes and threads; None: no limit, as in earlier versions."""
    signed_records: bool = False
    """Whether the records of the run's supervisor are authenticated; earlier versions did not do that."""
    limit_pools: Sequence[str] = ()
    """The pools that a limit of the agent's account closes."""
    login_pools: Sequence[str] = ()
    """Those that close if the agent is not signed in."""
    keeps_workspace: bool = False
    """Whether the run works in the place that its schedule keeps, and no other run does meanwhile."""
    url: str = ""
    acp_type: Literal["sync", "agentic", "async"] = AgentexAgent.model_fields["acp_type"].default
    await_completion: bool = AgentexAgent.model_fields["await_completion"].default

    @property
    def overdue(self) -> str:
        """The error of a run that took too long."""
        return f"timeout: the run took longer than its timeout of {_formatted(self.timeout_seconds)}"

    @property
    def silent(self) -> str:
        """The error of a run that gave no output for too long."""
        limit = _formatted(self.idle_timeout_seconds or 0)
        return f"idle timeout: no output for longer than its idle_timeout of {limit}"


def _formatted(seconds: float) -> str:
    return format_duration(timedelta(seconds=seconds))


@dataclass(frozen=True)
class Work:
    """One run as its agent sees it."""

    run_id: int
    run_name: str
    agent: str
    schedule: str
    """The schedule's name; empty if the run has no schedule."""
    scheduled_for: str
    attempt: int
    trigger: str
    idempotency_key: str
    author: str
    content: str
    params: dict[str, Any]
    metadata: dict[str, Any]
    """Metadata that is sent to the agent, including the URL of its hook."""
    created_at: str
    run_dir: Path
    workspace: Path
    settings: RunSettings
    hook_token: str | None = None
    """Lets the agent end the run by calling its hook; a secret."""
    record_key: bytes | None = None
    """Authenticates the records of the run's supervisors; a secret; None if they are not authenticated."""
    spent_seconds: float = 0.0
    """The part of the run's timeout that passed before the agent could start, or under an earlier daemon."""
    locks_workspace: bool = False
    """Whether the workspace belongs to this run alone, and is locked while the run uses it."""
    identity: Identity | None = None
    """The supervisor that an earlier daemon started for this run."""
    failed_attempts: Mapping[str, int] = field(default_factory=dict)
    """How many delivery attempts at each call failed under earlier daemons."""
    may_have_input: bool = False
    """Whether an agent behind a URL may have the input from an earlier daemon, which it has not acknowledged."""
    delivered: bool = False
    """Whether an earlier daemon recorded that the command was released, or that the input was acknowledged."""
    session: str | None = None
    """The agent's conversation that the run continues; None for a new one."""
    previous_session: str | None = None
    """The conversation of the previous attempt; None if that is not known."""
    remote: dict[str, Any] | None = None
    """What identifies the remote work of a suspended run in its protocol; None if the run is not suspended."""


@dataclass(frozen=True)
class Outcome:
    """How a run ended, as data."""

    status: RunStatus
    error: str | None = None
    exit_code: int | None = None
    signal: int | None = None
    message: str | None = None
    cancelled_by_us: bool = False
    """Whether a daemon requested the cancellation, as opposed to somebody who signalled the process."""
    permanent: bool = False
    """Whether another attempt is certain to fail in the same way."""
    retry_after: timedelta | None = None
    quiet: bool = False
    """Whether the agent asked to notify nobody if the run completed."""
    kind: FailureKind | None = None
    """What kind of failure it is; None unless it failed. A failure without a kind is recorded as `failed`."""
    limit_ends_at: datetime | None = None
    """When the limit of its account that the agent hit is reset (UTC), as far as known."""
    session: str | None = None
    """Identifies the agent's conversation, so that it can be continued."""
    session_refused: str | None = None
    """Why the session that the run was to continue is not continued."""
    usage: dict[str, Any] = field(default_factory=dict)
    usage_at_least: bool = False
    """Whether the usage is only what was known when the agent was cut off."""
    usage_by_model: Mapping[str, dict[str, Any]] = field(default_factory=dict)
    """The same by model, as far as the agent tells."""
    denials: tuple[str, ...] = ()
    """What the agent asked for and was not allowed to do."""
    output_bytes: int | None = None
    output_dropped: int | None = None
    memory_peak: int | None = None
    """Bytes: the peak of the whole run, or of its largest process where the host does not count the whole."""
    cpu_seconds: float | None = None
    ended_at: datetime | None = None
    """When the work ended; None means now."""


@dataclass(frozen=True)
class NeverStarted:
    """The agent did not start, or ignores input that it has already, so the run can be started again."""

    reason: str
    again_after: timedelta = timedelta(0)
    is_failure: bool = False
    """Whether something kept it from starting, so that it waits longer each time and is not retried forever."""
    dropped_as: FireOutcome | None = None
    """What becomes of its due time if nobody wants the run any more, for the reason given, so that it is cancelled."""
    may_have_input: bool = False
    """Whether an agent behind a URL may have the input unacknowledged: only the same run, under its key, is safe."""


@dataclass(frozen=True)
class Journal:
    """Callbacks that record the stages of a delivery; each returns once the record is on disk."""

    identified: Callable[[Identity], Awaitable[None]]
    """A supervisor is about to start the agent's command; raises an error if it must not."""
    starting: Callable[[], Awaitable[None]]
    """A call is about to be made that asks an agent behind a URL to work; raises an error if it must not.

    It is called again before each further attempt until one may have reached the agent.
    """
    delivered: Callable[[], Awaitable[None]]
    """The agent has the input."""
    suspended: Callable[[dict[str, Any]], Awaitable[bool]]
    """The work continues on the agent's server; return whether the run was still active."""
    attempt_failed: Callable[[int, str, float | None], Awaitable[None]]
    """A delivery attempt failed: its number, the reason, and the seconds until the next one (None: no more)."""


class Stoppable(Protocol):
    """The current activity of a run, which can be asked to end."""

    def stop(self, *, at_once: bool) -> None:
        """Ask the work to end: after its grace period, or at once."""

    def note_cancellation(self, reason: str) -> None:
        """Record the cancellation outside the database, for a daemon that finds no flag there."""


@runtime_checkable
class Interruptible(Stoppable, Protocol):
    """The current activity of a run whose agent answers over the network, so that it cannot outlast the daemon."""

    settled: asyncio.Event
    """Set by whoever learns that the run has ended through its hook."""
    leaving: asyncio.Event
    """Set when the daemon begins to stop: no further call is begun to deliver the input."""

    def interrupt(self) -> None:
        """Abandon a call in flight, because the daemon is stopping."""


@runtime_checkable
class Confidential(Stoppable, Protocol):
    """The current activity of a run that was given secrets."""

    secrets: Secrets | None
    """What is masked wherever the agent's text enters; None if this daemon has not read them."""


class Agent(Stoppable, Protocol):
    """An agent type; one instance serves one run, and `run` or `resume` returns after `stop`."""

    async def run(self, work: Work, journal: Journal) -> Outcome | NeverStarted:
        """Deliver the input and wait for the work to end."""

    async def resume(self, work: Work) -> Outcome | NeverStarted:
        """Adopt a run that an earlier daemon started, or find out how it ended."""
