"""Metrics for Prometheus; counters start at zero with each start of the daemon."""

from collections.abc import Iterator, Mapping
from datetime import timedelta
from typing import Literal, NamedTuple

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.registry import Collector

from daemon.model import FailureKind, FireOutcome, RunStatus
from daemon.store.changes import Changes
from daemon.store.runs import MICRO

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
_LATENESS = (0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 3600)
_DURATION = (1, 5, 15, 60, 300, 900, 3600, 4 * 3600, 24 * 3600)
_DELETED = ("runs", "fires", "schedules", "folders")


class Visible(NamedTuple):
    """The names that somebody may see in labels."""

    agents: frozenset[str]
    environments: frozenset[str]


class Metrics:
    """All metrics of one daemon."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._fires = self._counter("fires", "Due times decided, by outcome.", "outcome")
        self._runs = self._counter("run_changes", "Status changes of runs, by new status.", "status")
        self._failures = self._counter("run_failures", "Failed attempts of runs, by kind of failure.", "kind")
        self._tries = self._counter(
            "delivery_attempts",
            "Attempts to deliver inputs to agentex and a2a agents, by type and result.",
            "type",
            "result",
        )
        self._tokens = self._counter(
            "tokens", "Tokens that runs reported, by agent and direction.", "agent", "direction"
        )
        self._cost = self._counter("cost_usd", "US dollars that runs reported, by agent.", "agent")
        self._notified = self._counter("notifications", "Attempts to send notifications, by result.", "result")
        self._changes = self._counter(
            "schedule_changes", "Requested changes of schedules, by action and result.", "action", "result"
        )
        self._rejected = self._counter(
            "connections_rejected", "Connections rejected because there were too many, by socket.", "socket"
        )
        self._bad_tokens = self._counter(
            "tokens_rejected",
            "Rejected bearer and hook tokens: wrong, not compared after too many wrong ones, or not of a hook.",
            "reason",
        )
        self._lateness = self._histogram(
            "lateness_seconds", "Seconds from a due time's planned start to its decision.", _LATENESS
        )
        self._duration = self._histogram(
            "run_duration_seconds", "Seconds from the start to the end of a run.", _DURATION
        )
        self._log_lines_lost = self._counter("log_lines_lost", "Log lines that could not be written.")
        self._lag = self._gauge("event_loop_lag_seconds", "Lag of the event loop when last measured.")
        self._queue = self._gauge("queue_length", "Runs that wait in the queue.")
        self._statuses = self._gauge("runs", "Active runs, by status.", "status")
        self._cleaned = self._counter("workspaces_cleaned", "Attempts to remove workspaces, by result.", "result")
        self._workspaces = self._gauge("workspaces", "Existing workspaces, by environment.", "environment")
        self._bytes = self._gauge(
            "workspace_bytes", "Bytes in workspaces when last measured, by environment.", "environment"
        )
        self._saved = self._gauge(
            "saved_work_bytes", "Bytes of work that was saved from workspaces, by environment.", "environment"
        )
        self._sweeps = self._counter("retention_sweeps", "Retention sweeps, by result.", "result")
        self._deleted = self._counter("retention_deleted", "Rows and folders that retention deleted, by kind.", "kind")
        self._problems = self._gauge("problems", "Things that fail at the moment and are retried, by part.", "part")
        self._freed = self._counter("retention_freed_bytes", "Bytes that retention returned to the file system.")
        self._lines_lost = 0
        self._show_zeros()

    def _show_zeros(self) -> None:
        """Create the known labels, so that they show as 0."""
        for counter, labels in (
            (self._bad_tokens, ("wrong", "throttled", "unknown_hook")),
            (self._rejected, ("unix", "tcp")),
            (self._notified, ("sent", "failed", "given_up")),
            (self._cleaned, ("removed", "failed")),
            (self._sweeps, ("done", "skipped", "failed")),
            (self._deleted, _DELETED),
            (self._fires, FireOutcome),
            (self._runs, RunStatus),
            (self._failures, FailureKind),
        ):
            for label in labels:
                counter.labels(label)
        for kind in ("agentex", "a2a"):
            for result in ("acknowledged", "failed"):
                self._tries.labels(kind, result)

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"agentcron_{name}", text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"agentcron_{name}", text, labels, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: tuple[float, ...]) -> Histogram:
        return Histogram(f"agentcron_{name}", text, buckets=buckets, registry=self._registry)

    def committed(self, changes: Changes) -> None:
        """Count what was committed: decided due times, status changes of runs, deliveries, and what runs reported."""
        for (kind, label), number in changes.counts.items():
            match kind:
                case "fire":
                    self._fires.labels(label).inc(number)
                case "run":
                    self._runs.labels(label).inc(number)
                case "failure":
                    self._failures.labels(label).inc(number)
                case "delivery_acknowledged" | "delivery_failed":
                    self._tries.labels(label, kind.removeprefix("delivery_")).inc(number)
                case "cost_usd":
                    self._cost.labels(label).inc(number / MICRO)
                case "input_tokens" | "output_tokens":
                    self._tokens.labels(label, kind.removesuffix("_tokens")).inc(number)
        for change in changes.statuses:
            if change.duration is not None:
                self._duration.observe(change.duration.total_seconds())

    def late(self, lateness: timedelta) -> None:
        """Note how late the clock started a due time."""
        self._lateness.observe(max(0.0, lateness.total_seconds()))

    def notified(self, result: str) -> None:
        """Count an attempt to send a notification: `sent`, `failed` or `given_up`."""
        self._notified.labels(result).inc()

    def schedule_change(self, action: str, result: str) -> None:
        """Count a requested change of a schedule: `ok`, or the error code of the refusal."""
        self._changes.labels(action, result).inc()

    def connection_rejected(self, socket: Literal["unix", "tcp"]) -> None:
        """Count a connection that was rejected because there were too many."""
        self._rejected.labels(socket).inc()

    def token_rejected(self, reason: Literal["wrong", "throttled", "unknown_hook"]) -> None:
        """Count a bearer or hook token that was rejected."""
        self._bad_tokens.labels(reason).inc()

    def cleaned(self, result: str) -> None:
        """Count an attempt to remove a workspace: `removed` or `failed`."""
        self._cleaned.labels(result).inc()

    def swept(self, result: str, deleted: Mapping[str, int], freed: int) -> None:
        """Count a retention sweep (`done`, `skipped` or `failed`) and what it deleted and freed."""
        self._sweeps.labels(result).inc()
        for kind in _DELETED:
            self._deleted.labels(kind).inc(deleted.get(kind, 0))
        self._freed.inc(freed)

    def log_lines_lost(self, total: int) -> None:
        """Record how many log lines have been lost since the start."""
        self._log_lines_lost.inc(total - self._lines_lost)
        self._lines_lost = total

    def lagged(self, seconds: float) -> None:
        """Record the lag of the event loop."""
        self._lag.set(seconds)

    def text(
        self,
        active: dict[str, int],
        workspaces: dict[str, tuple[int, int]],
        saved: dict[str, tuple[int, int]],
        problems: Mapping[str, int],
        visible: Visible | None = None,
    ) -> bytes:
        """Return all metrics in the Prometheus text format; those of agents and environments only if visible.

        `active` is the number of active runs by status, `workspaces` the number of workspaces and their bytes by
        environment, `saved` the number of runs with saved work and its bytes by environment, `problems` the number
        of current problems by part of the daemon. Without `visible` everything is.
        """
        self._problems.clear()
        for part, count in problems.items():
            self._problems.labels(part).set(count)
        self._workspaces.clear()
        self._saved.clear()
        for environment, (_, size) in saved.items():
            self._saved.labels(environment).set(size)
        self._bytes.clear()
        for environment, (count, size) in workspaces.items():
            self._workspaces.labels(environment).set(count)
            self._bytes.labels(environment).set(size)
        self._queue.set(active.get(RunStatus.PENDING, 0))
        for status in (RunStatus.PENDING, RunStatus.RUNNING, RunStatus.SUSPENDED):
            self._statuses.labels(status).set(active.get(status, 0))
        return generate_latest(self._registry if visible is None else _Selection(self._registry, visible))


class _Selection(Collector):
    """The metrics of a registry without the samples that name invisible agents and environments."""

    def __init__(self, registry: CollectorRegistry, visible: Visible) -> None:
        self._registry = registry
        self._visible = {"agent": visible.agents, "environment": visible.environments}

    def collect(self) -> Iterator[Metric]:
        """Yield each metric."""
        for metric in self._registry.collect():
            metric.samples = [sample for sample in metric.samples if self._shows(sample.labels)]
            yield metric

    def _shows(self, labels: Mapping[str, str]) -> bool:
        return all(labels[name] in values for name, values in self._visible.items() if name in labels)
