"""Budgets: what an agent, or the host as a whole, may spend in one calendar day."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

_NEARLY = 0.8


@dataclass(frozen=True)
class Limits:
    """The limits of one calendar day; None is no limit."""

    runs: int | None = None
    cost_usd: float | None = None
    tokens: int | None = None

    @property
    def are_none(self) -> bool:
        """Whether there is no limit at all."""
        return self == Limits()


@dataclass(frozen=True)
class Budgets:
    """All budgets, and the time zone of their calendar day."""

    agents: Mapping[str, Limits] = field(default_factory=dict)
    host: Limits = field(default_factory=Limits)
    """What all agents together may spend."""
    zone: str = "UTC"

    def of(self, agent: str) -> Iterator[tuple[str | None, Limits]]:
        """Yield the budgets that runs of an agent count towards, each with its owner: the agent, None for the host."""
        if agent in self.agents:
            yield agent, self.agents[agent]
        if not self.host.are_none:
            yield None, self.host


@dataclass(frozen=True)
class Spent:
    """What those runs of an agent, or of all, spent that were created in one calendar day."""

    runs: int
    cost_usd: float
    tokens: int


def owner_name(owner: str | None) -> str:
    """Return whose budget it is, for people."""
    return "the host" if owner is None else owner


def exhausted(limits: Limits, spent: Spent) -> str | None:
    """Return which limits are reached, with the figures; None if another run may start."""
    return ", ".join(_reached(limits, spent, 1)) or None


def nearly_spent(limits: Limits, spent: Spent) -> str | None:
    """Return which limits are reached to four fifths, with the figures; None if none is.

    All runs that a day may have are no warning: only one more would be too many, and it is reported when it is due.
    """
    if limits.runs is not None and spent.runs >= limits.runs:
        limits = replace(limits, runs=None)
    return ", ".join(_reached(limits, spent, _NEARLY)) or None


def _reached(limits: Limits, spent: Spent, share: float) -> Iterator[str]:
    """Yield the figures of the limits of which so large a share is spent."""
    if limits.runs is not None and spent.runs >= share * limits.runs:
        yield f"{spent.runs} of {limits.runs} runs"
    if limits.cost_usd is not None and spent.cost_usd >= share * limits.cost_usd:
        yield f"{spent.cost_usd:.2f} of {limits.cost_usd:.2f} USD"
    if limits.tokens is not None and spent.tokens >= share * limits.tokens:
        yield f"{spent.tokens} of {limits.tokens} tokens"


def calendar_day(now: datetime, zone: str) -> tuple[datetime, datetime]:
    """Return the UTC instants at which the calendar day that contains `now` begins and ends in a zone."""
    begin = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return begin.astimezone(UTC), (begin + timedelta(days=1)).astimezone(UTC)
