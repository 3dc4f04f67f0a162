"""Which ended runs retention deletes."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from enum import StrEnum
from functools import lru_cache

from daemon.model import ACTIVE, RunStatus
from daemon.units import format_instant, parse_instant

_USUAL = re.compile(r"([0-9]{4}-[0-9]{2}-[0-9]{2})T(?:[01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9]\.[0-9]{3}Z")


class Cutoff:
    """An instant; what is older has expired."""

    def __init__(self, instant: datetime) -> None:
        """Compare with an instant, rounded down to the milliseconds that records have."""
        self._instant = instant - timedelta(microseconds=instant.microsecond % 1000)
        self.text = format_instant(self._instant)

    def is_after(self, text: str) -> bool:
        """Tell whether a recorded time lies strictly before it; one that is no time never does."""
        usual = _USUAL.fullmatch(text)
        if usual and _is_date(usual[1]):
            return text < self.text
        try:
            return parse_instant(text) < self._instant
        except ValueError:
            return False


@lru_cache(maxsize=4096)
def _is_date(text: str) -> bool:
    try:
        date.fromisoformat(text)
    except ValueError:
        return False
    return True


@dataclass(frozen=True)
class RunRetention:
    """How long the ended runs of one agent are kept."""

    cutoff: Cutoff | None
    """None keeps them forever."""
    keep_last: int
    """How many of the newest of each schedule stay in any case."""


@dataclass(frozen=True)
class PastRun:
    """A run as the rules look at it."""

    id: int
    agent: str
    schedule_id: int | None
    status: RunStatus
    updated_at: str
    has_workspace: bool
    is_kept: bool
    """Whether a person wants its workspace to stay."""


class Fate(StrEnum):
    """What becomes of the attempts at one input."""

    STAYS = "stays"
    RELEASES = "releases"
    """Its workspaces go first, which renews it."""
    GOES = "goes"


@dataclass(frozen=True)
class RetentionPolicy:
    """`[retention]` for all agents, as of one instant."""

    by_agent: Mapping[str, RunRetention]
    general: RunRetention
    """Of agents that the config does not know any more."""
    spared_from: Mapping[int, int]
    """For schedules whose newest runs stay in any case, the oldest of these."""

    def of(self, agent: str) -> RunRetention:
        """Return what holds for an agent."""
        return self.by_agent.get(agent, self.general)

    @property
    def latest(self) -> Cutoff | None:
        """The cutoff that expires most, None if nothing does."""
        cutoffs = [term.cutoff for term in (self.general, *self.by_agent.values()) if term.cutoff is not None]
        return max(cutoffs, key=lambda cutoff: cutoff.text, default=None)

    def has_expired(self, number: int, agent: str, schedule_id: int | None, updated_at: str) -> bool:
        """Tell whether an ended run by itself may be deleted."""
        cutoff = self.of(agent).cutoff
        if cutoff is None or not cutoff.is_after(updated_at):
            return False
        spared_from = self.spared_from.get(schedule_id) if schedule_id is not None else None
        return spared_from is None or number < spared_from

    def fate(self, attempts: Sequence[PastRun]) -> Fate:
        """Return what becomes of the attempts at one input, all of them: they stay or go together."""
        for run in attempts:
            if run.status in ACTIVE or run.is_kept:
                return Fate.STAYS
            if not self.has_expired(run.id, run.agent, run.schedule_id, run.updated_at):
                return Fate.STAYS
        return Fate.RELEASES if any(run.has_workspace for run in attempts) else Fate.GOES


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers in ascending order as (first, last) of those that follow each other without a gap."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
