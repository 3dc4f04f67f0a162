"""Metrics of single schedules for Prometheus: a bounded number of them, the rest in one sum."""

from bisect import bisect_left
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import chain

from prometheus_client import Metric, generate_latest
from prometheus_client.core import CounterMetricFamily, HistogramMetricFamily
from prometheus_client.registry import Collector

from daemon.model import ACTIVE, FireOutcome, RunStatus
from daemon.store.changes import Changes
from daemon.store.schedules import LiveSchedule

MOST = 500
"""Schedules that have metrics of their own."""
OTHER = "(other)"
"""The labels of the sum of all other schedules; no agent or schedule can have this name."""
_DURATION = (1, 10, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)  # seconds: upper bounds of the buckets
_ENDED = tuple(status for status in RunStatus if status not in ACTIVE)


@dataclass(slots=True)
class Figures:
    """What is counted of one schedule, or of all others."""

    fires: Counter[str] = field(default_factory=lambda: Counter({FireOutcome.LAUNCHED: 0}))
    runs: Counter[str] = field(default_factory=lambda: Counter(dict.fromkeys(_ENDED, 0)))
    took: list[int] = field(default_factory=lambda: [0] * (len(_DURATION) + 1))
    """Ended runs by the bucket of their duration, the last one without an upper bound."""
    seconds: float = 0.0

    def observe(self, duration: timedelta) -> None:
        """Count how long a run took."""
        self.took[bisect_left(_DURATION, duration.total_seconds())] += 1
        self.seconds += duration.total_seconds()

    def copy(self) -> "Figures":
        """Return what is counted up to now."""
        return Figures(self.fires.copy(), self.runs.copy(), list(self.took), self.seconds)


@dataclass(frozen=True)
class Series:
    """What the metrics show of one schedule, or of the runs of an agent without one."""

    agent: str
    schedule: str
    """As `AGENT/NAME`; empty for runs without a schedule."""
    figures: Figures


class ScheduleMetrics:
    """Counts fires and runs of up to 500 schedules each; those of the others are summed up.

    The runs of an agent without a schedule count like those of one schedule, under the agent's name; schedules are
    counted under their numbers. Their names are looked up when somebody reads the metrics. Those that are deleted by
    then are forgotten, so that others take their places, and what the config names takes that of any other schedule.
    Until then, those that start something take the places of those of which nothing was ever counted.
    """

    def __init__(self) -> None:
        self._of: dict[int | str, Figures] = {}
        self._idle: dict[int, None] = {}  # schedules among them of which nothing was counted, the oldest first
        self._declared: frozenset[int] = frozenset()  # schedules of the config that had a place when it was last asked
        self._other = Figures()

    def committed(self, changes: Changes) -> None:
        """Count what was committed: decided due times, and runs that ended."""
        for (schedule_id, outcome), number in changes.fires.items():
            self._figures(schedule_id).fires[outcome] += number
        for change in changes.statuses:
            figures = self._figures(change.agent if change.schedule_id is None else change.schedule_id)
            if change.after in ACTIVE:  # but the series exists, so that a failure is an increase
                continue
            figures.runs[change.after] += 1
            if change.duration is not None:
                figures.observe(change.duration)

    def _figures(self, key: int | str) -> Figures:
        if isinstance(key, int):
            self._idle.pop(key, None)
        known = self._of.get(key)
        if known is None:
            if len(self._of) >= MOST:
                place = self._place_for(key)
                if place is None:
                    return self._other
                self._forget(place)
            known = self._of[key] = Figures()
        return known

    def _place_for(self, key: int | str) -> int | None:
        """Return the schedule whose place something else may take while there is no free one, None if it may not."""
        idle = (one for one in reversed(self._idle) if one not in self._declared)
        if isinstance(key, int) and key not in self._declared:
            return next(idle, None)
        created = (one for one in reversed(self._of) if isinstance(one, int) and one not in self._declared)
        return next(chain(idle, created, reversed(self._idle)), None)

    def _forget(self, key: int | str) -> None:
        self._of.pop(key, None)
        if isinstance(key, int):
            self._idle.pop(key, None)

    @property
    def tracked(self) -> list[int]:
        """The numbers of the schedules that have figures of their own."""
        return [key for key in self._of if isinstance(key, int)]

    @property
    def places(self) -> int:
        """How many schedules may have figures of their own, beside the agents that have."""
        return MOST - len(self._of) + len(self.tracked)

    def keep(self, asked: Collection[int], live: Mapping[int, LiveSchedule], agents: Collection[str]) -> list[Series]:
        """Forget the schedules among those asked for that are not in `live`, and begin to count the others that are.

        `live` are those that shall have figures of their own, at most `places`; of agents that are not among `agents`,
        those of the config, runs without a schedule are forgotten. Return what is to be shown, the sum of the others
        last.
        """
        gone = [key for key in self._of if isinstance(key, str) and key not in agents]
        for agent in gone:
            self._forget(agent)
        for schedule_id in asked:
            if schedule_id not in live:
                self._forget(schedule_id)
        self._declared = frozenset(schedule_id for schedule_id, one in live.items() if one.is_declared)
        for schedule_id in live:
            if len(self._of) < MOST and schedule_id not in self._of:
                self._of[schedule_id], self._idle[schedule_id] = Figures(), None
        shown = [
            Series(one.agent, f"{one.agent}/{one.name}", self._of[schedule_id].copy())
            for schedule_id, one in live.items()
            if schedule_id in self._of
        ]
        shown += [Series(key, "", figures.copy()) for key, figures in self._of.items() if isinstance(key, str)]
        return [*shown, Series(OTHER, OTHER, self._other.copy())]


def text_of(series: Iterable[Series], agents: Collection[str] | None) -> bytes:
    """Return metrics in the Prometheus text format: of some agents, or (None) all with the sum of the others."""
    return generate_latest(_Families([one for one in series if agents is None or one.agent in agents]))


class _Families(Collector):
    """Some series as families of metrics."""

    def __init__(self, series: list[Series]) -> None:
        self._series = series

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        names = ("agent", "schedule")
        fires = CounterMetricFamily(
            "agentcron_schedule_fires", "Due times decided, by schedule and outcome.", labels=(*names, "outcome")
        )
        runs = CounterMetricFamily(
            "agentcron_schedule_runs", "Runs that ended, by schedule and status.", labels=(*names, "status")
        )
        took = HistogramMetricFamily(
            "agentcron_schedule_run_seconds", "Seconds from the start to the end of a run, by schedule.", labels=names
        )
        for one in self._series:
            labels = (one.agent, one.schedule)
            for outcome, number in one.figures.fires.items():
                fires.add_metric((*labels, outcome), number)
            for status, number in one.figures.runs.items():
                runs.add_metric((*labels, status), number)
            if any(one.figures.took):
                took.add_metric(labels, _buckets(one.figures.took), one.figures.seconds)
        yield from (fires, runs, took)


def _buckets(counts: list[int]) -> list[tuple[str, float]]:
    """Return the cumulative numbers of a histogram, each with its upper bound."""
    total, found = 0, []
    for bound, count in zip((*map(float, _DURATION), float("inf")), counts, strict=True):
        total += count
        found.append(("+Inf" if bound == float("inf") else str(bound), float(total)))
    return found
