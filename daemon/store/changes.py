"""What a transaction changed, for those who wait for it: collected while it runs, published once it is committed."""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Literal

from daemon.model import RunStatus
from daemon.units import parse_instant


@dataclass(frozen=True)
class StatusChange:
    """A run that moved from one status to another."""

    run_id: int
    agent: str
    schedule: str | None
    """Its schedule as `AGENT/NAME`, None for a run without one."""
    before: RunStatus
    after: RunStatus
    reason: str | None = None
    started_at: str | None = None
    """When the run had started, None for one that had not."""
    ended_at: str | None = None
    """When the run ended, which may lie before the change."""
    schedule_id: int | None = None
    """The number of its schedule, None for a run without one."""

    @property
    def duration(self) -> timedelta | None:
        """How long a run took that has ended; None for one that has not, or that had not started."""
        if self.started_at is None or self.ended_at is None:
            return None
        try:
            return max(timedelta(0), parse_instant(self.ended_at) - parse_instant(self.started_at))
        except ValueError:  # somebody edited the row
            return None


@dataclass(frozen=True)
class PoolChange:
    """A pool that was closed or opened, paused or resumed."""

    pool: str
    what: Literal["closed", "opened", "paused", "resumed"]
    reason: str
    until: datetime | None = None
    run_id: int | None = None
    """The run whose words closed it."""
    principal: str | None = None
    """Who paused it."""


@dataclass
class Changes:
    """What one transaction, or a batch of them, changed."""

    counts: Counter[tuple[str, str]] = field(default_factory=Counter)
    """How often something happened, by its kind and a label: `("run", "completed")`."""
    statuses: list[StatusChange] = field(default_factory=list)
    pools: list[PoolChange] = field(default_factory=list)
    fires: Counter[tuple[int, str]] = field(default_factory=Counter)
    """How many due times were decided, by the number of the schedule and the outcome."""
    run_bytes: int = 0
    """How many bytes the created runs take, about."""
    unconfirmed: list[int] = field(default_factory=list)
    """Runs that were cancelled although an agent behind a URL may have their input."""

    def count(self, kind: str, label: str, number: int = 1) -> None:
        """Add to how often something happened."""
        self.counts[kind, label] += number

    def fire(self, schedule_id: int, outcome: str, number: int = 1) -> None:
        """Add decided due times of a schedule."""
        self.count("fire", outcome, number)
        self.fires[schedule_id, outcome] += number

    def labels(self, kind: str) -> set[str]:
        """Return the labels of a kind that were counted."""
        return {label for counted, label in self.counts if counted == kind}

    def add(self, other: "Changes") -> None:
        """Add what another transaction changed."""
        self.counts.update(other.counts)
        self.statuses += other.statuses
        self.pools += other.pools
        self.fires.update(other.fires)
        self.run_bytes += other.run_bytes
        self.unconfirmed += other.unconfirmed

    def copy(self) -> "Changes":
        """Return what was changed up to now."""
        return Changes(
            self.counts.copy(),
            list(self.statuses),
            list(self.pools),
            self.fires.copy(),
            self.run_bytes,
            list(self.unconfirmed),
        )
