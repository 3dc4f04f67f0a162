"""Who hears of what, and how often: once for each change, then at growing gaps while nothing changes."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

_FIRST_GAP, _LONGEST_GAP = timedelta(hours=1), timedelta(hours=24)


@dataclass(frozen=True)
class Target:
    """One `[notify.NAME]` that is sent events."""

    name: str
    kinds: frozenset[str]
    agents: frozenset[str]
    """Of which it hears; `*` stands for all."""


@dataclass(frozen=True)
class Audience:
    """Everybody who is sent events."""

    targets: Sequence[Target] = ()

    def wanting(self, kind: str, agent: str | None) -> list[str]:
        """Name the targets that want an event of a kind, about an agent or about none."""
        return [
            target.name
            for target in self.targets
            if kind in target.kinds and (agent is None or {"*", agent} & target.agents)
        ]


@dataclass(frozen=True)
class Standing:
    """How something stands with which all is not well."""

    state: str
    since: datetime
    count: int
    """How often in a row it was found not to be well."""
    told_at: datetime
    gap: timedelta
    """How long nothing is said about it again."""


class Told(Enum):
    """Why something is worth telling."""

    CHANGED = "changed"
    STILL = "still"
    RECOVERED = "recovered"


NOBODY = Audience()


def next_standing(known: Standing | None, state: str | None, now: datetime) -> tuple[Standing | None, Told | None]:
    """Return how something stands after it was found in a state, None for well, and whether that is to be told."""
    if state is None:
        return None, Told.RECOVERED if known else None
    if known is None or known.state != state:
        since, count = (known.since, known.count + 1) if known else (now, 1)
        return Standing(state, since, count, now, _FIRST_GAP), Told.CHANGED
    known = replace(known, count=known.count + 1, told_at=min(known.told_at, now))  # the clock may have been ahead
    if now < known.told_at + known.gap:
        return known, None
    return replace(known, told_at=now, gap=min(known.gap * 2, _LONGEST_GAP)), Told.STILL


def next_try(tries: int) -> timedelta:
    """Return the wait after so many failed tries to send something: doubled each time, at most 5 minutes."""
    return min(timedelta(seconds=2 ** min(tries, 20)), timedelta(minutes=5))
