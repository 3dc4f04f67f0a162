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
    """An instant; records from before it have expired."""

    def __init__(self, instant: datetime) -> None:
        """Use an instant, rounded down to the milliseconds that records have."""
        self._instant = instant - timedelta(microseconds=instant.microsecond % 1000)
        self.text = format_instant(self._instant)

    def is_after(self, text: str) -> bool:
        """Return whether a recorded time lies strictly before the cutoff; text that is not a time never does."""
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
    """None: keep them forever."""
    keep_last: int
    """How many of the newest runs of each schedule are always kept."""


@dataclass(frozen=True)
class PastRun:
    """What the rules need to know about a run."""

    id: int
    agent: str
    schedule_id: int | None
    status: RunStatus
    updated_at: str
    has_workspace: bool
    is_kept: bool
    """Whether a person marked its workspace to be kept."""


class Fate(StrEnum):
    """What happens to all attempts at one input."""

    STAYS = "stays"
    RELEASES = "releases"
    """Their workspaces are removed now, which counts as an update, so that the runs stay for `days` more."""
    GOES = "goes"


@dataclass(frozen=True)
class RetentionPolicy:
    """`[retention]` for all agents, as of one instant."""

    by_agent: Mapping[str, RunRetention]
    general: RunRetention
    """For agents that are no longer in the config."""
    spared_from: Mapping[int, int]
    """By schedule, the oldest of the runs that `keep_last` always keeps."""

    def of(self, agent: str) -> RunRetention:
        """Return the retention of an agent's runs."""
        return self.by_agent.get(agent, self.general)

    @property
    def latest(self) -> Cutoff | None:
        """The latest cutoff of all, None if nothing expires."""
        cutoffs = [term.cutoff for term in (self.general, *self.by_agent.values()) if term.cutoff is not None]
        return max(cutoffs, key=lambda cutoff: cutoff.text, default=None)

    def has_expired(self, number: int, agent: str, schedule_id: int | None, updated_at: str) -> bool:
        """Return whether an ended run, regarded alone, may be deleted."""
        cutoff = self.of(agent).cutoff
        if cutoff is None or not cutoff.is_after(updated_at):
            return False
        spared_from = self.spared_from.get(schedule_id) if schedule_id is not None else None
        return spared_from is None or number < spared_from

    def fate(self, attempts: Sequence[PastRun]) -> Fate:
        """Return what happens to all attempts at one input; they are kept or deleted together."""
        for run in attempts:
            if run.status in ACTIVE or run.is_kept:
                return Fate.STAYS
            if not self.has_expired(run.id, run.agent, run.schedule_id, run.updated_at):
                return Fate.STAYS
        return Fate.RELEASES if any(run.has_workspace for run in attempts) else Fate.GOES


def ranges(numbers: Iterable[int]) -> list[tuple[int, int]]:
    """Return numbers as ascending ranges (first, last) without gaps."""
    found: list[tuple[int, int]] = []
    for number in sorted(numbers):
        if found and found[-1][1] == number - 1:
            found[-1] = (found[-1][0], number)
        else:
            found.append((number, number))
    return found
