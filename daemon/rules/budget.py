"""Budgets: what an agent may spend in one calendar day."""

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo


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
class Spent:
    """What the runs of one agent spent that were created in one calendar day."""

    runs: int
    cost_usd: float
    tokens: int


def exhausted(limits: Limits, spent: Spent) -> str | None:
    """Return which limits are reached, with the figures; None if another run may start."""
    reached = []
    if limits.runs is not None and spent.runs >= limits.runs:
        reached.append(f"{spent.runs} of {limits.runs} runs")
    if limits.cost_usd is not None and spent.cost_usd >= limits.cost_usd:
        reached.append(f"{spent.cost_usd:.2f} of {limits.cost_usd:.2f} USD")
    if limits.tokens is not None and spent.tokens >= limits.tokens:
        reached.append(f"{spent.tokens} of {limits.tokens} tokens")
    return ", ".join(reached) or None


def calendar_day(now: datetime, zone: str) -> tuple[datetime, datetime]:
    """Return the UTC instants at which the calendar day that contains `now` begins and ends in a zone."""
    begin = now.astimezone(ZoneInfo(zone)).replace(hour=0, minute=0, second=0, microsecond=0, fold=0)
    return begin.astimezone(UTC), (begin + timedelta(days=1)).astimezone(UTC)
