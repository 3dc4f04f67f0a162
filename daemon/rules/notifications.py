"""Who is notified of what, and how often: once for each change, then at growing intervals while it lasts."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import Enum

SILENT = "[SILENT]"
_FIRST_GAP, _LONGEST_GAP = timedelta(hours=1), timedelta(hours=24)


@dataclass(frozen=True)
class Target:
    """A `[notify.NAME]` section that receives events."""

    name: str
    kinds: frozenset[str]
    agents: frozenset[str]
    """The agents whose events it receives; `*` means all."""
    wants_answer: bool = False
    """Whether it receives what the agent answered, with the end of a run."""

    def wants(self, kind: str, agent: str | None) -> bool:
        """Return whether it receives a kind of event, about an agent or (None) about none."""
        return kind in self.kinds and (agent is None or bool({"*", agent} & self.agents))


@dataclass(frozen=True)
class Audience:
    """All targets that receive events."""

    targets: Sequence[Target] = ()

    def wanting(self, kind: str, agent: str | None) -> list[Target]:
        """Return the targets for a kind of event, about an agent or (None) about none."""
        return [target for target in self.targets if target.wants(kind, agent)]

    def wanting_one_of(self, kind: str, agents: Collection[str]) -> list[Target]:
        """Return the targets for a kind of event about what several agents share."""
        return [target for target in self.targets if any(target.wants(kind, agent) for agent in agents)]

    def wanting_any(self, kind: str) -> list[Target]:
        """Return the targets for a kind of event, about whatever agents."""
        return [target for target in self.targets if kind in target.kinds]


@dataclass(frozen=True)
class Standing:
    """A known problem of a subject, such as a schedule that fails."""

    state: str
    since: datetime
    count: int
    """How often in a row the problem was found."""
    told_at: datetime
    gap: timedelta
    """How long to wait before the next notification about it."""


class NotifyReason(Enum):
    """Why a notification is sent."""

    CHANGED = "changed"
    STILL = "still"
    RECOVERED = "recovered"


def next_standing(
    known: Standing | None, state: str | None, now: datetime
) -> tuple[Standing | None, NotifyReason | None]:
    """Return the problem of a subject found in `state` (None: healthy), and why to notify, None if not."""
    if state is None:
        return None, NotifyReason.RECOVERED if known else None
    if known is None or known.state != state:
        since, count = (known.since, known.count + 1) if known else (now, 1)
        return Standing(state, since, count, now, _FIRST_GAP), NotifyReason.CHANGED
    known = replace(known, count=known.count + 1, told_at=min(known.told_at, now))  # the clock may have been ahead
    if now < known.told_at + known.gap:
        return known, None
    return replace(known, told_at=now, gap=min(known.gap * 2, _LONGEST_GAP)), NotifyReason.STILL


def is_silent(answer: str | None) -> bool:
    """Return whether an agent asks, by the first line of its answer, not to send it to anybody."""
    return (answer or "").strip().partition("\n")[0].rstrip() == SILENT


def next_try(tries: int) -> timedelta:
    """Return the wait after so many failed attempts to send: doubled each time, at most 5 minutes."""
    return min(timedelta(seconds=2 ** min(tries, 20)), timedelta(minutes=5))
