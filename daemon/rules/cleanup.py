"""Which workspaces a cleanup removes, and why it keeps the others."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.model import ACTIVE, RunStatus

WITHOUT_ERROR = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED})
"""Statuses of runs whose workspaces are removed by age alone."""


@dataclass(frozen=True)
class Candidate:
    """What the rules need to know about a workspace."""

    run_id: int
    source: str
    """The schedule, or the agent of a run without one; the newest errors are counted for each."""
    status: RunStatus
    kept: bool
    """Whether a person marked it to be kept."""
    ended_at: datetime | None
    left: bool = False
    """Whether it is in the place that a schedule kept for its runs, and the schedule was deleted."""


@dataclass(frozen=True)
class Policy:
    """The cleanup settings of one environment."""

    max_age: timedelta
    keep_on_error: bool
    keep_errors: int
    quota: int | None
    quota_warn: float
    salvage_max: int


@dataclass(frozen=True)
class CleanupDecision:
    """The decision about one workspace."""

    reason: str
    """Why it is kept, or why it may be removed."""
    may_go: bool
    """Whether the policy allows its removal, now or later."""
    due: bool = False
    """Whether it is removed now."""


def decide_cleanup(
    workspaces: Iterable[Candidate], policy: Policy, now: datetime, max_age: timedelta | None = None
) -> Mapping[int, CleanupDecision]:
    """Decide about the workspaces of one environment, by run; `max_age` overrides the policy's."""
    found: dict[int, CleanupDecision] = {}
    errors: dict[str, int] = {}
    age = policy.max_age if max_age is None else max_age
    for workspace in sorted(workspaces, key=lambda one: (_end(one), one.run_id), reverse=True):
        found[workspace.run_id] = _decide_one(workspace, policy, errors, now, age)
    return found


def _end(workspace: Candidate) -> float:
    return workspace.ended_at.timestamp() if workspace.ended_at else float("inf")


def _decide_one(
    workspace: Candidate, policy: Policy, errors: dict[str, int], now: datetime, age: timedelta
) -> CleanupDecision:
    if workspace.status in ACTIVE:
        return CleanupDecision("its run is active", may_go=False)
    if workspace.ended_at is None:
        return CleanupDecision("it is unknown when its run ended", may_go=False)
    newer = 0
    if workspace.status not in WITHOUT_ERROR:
        newer = errors.get(workspace.source, 0)
        errors[workspace.source] = newer + 1
    if workspace.kept:
        return CleanupDecision("marked keep", may_go=False)
    is_error = workspace.status not in WITHOUT_ERROR
    if is_error and policy.keep_on_error and newer < policy.keep_errors and not workspace.left:
        return CleanupDecision(
            f"{workspace.status}, among the newest {policy.keep_errors} of its schedule", may_go=False
        )
    if workspace.left or now - workspace.ended_at > age:
        reason = "its schedule was deleted" if workspace.left else "old enough to be removed"
        return CleanupDecision(reason, may_go=True, due=True)
    return CleanupDecision("younger than max_age", may_go=True)


def beyond_quota(sizes: Mapping[int, int], decisions: Mapping[int, CleanupDecision], quota: int) -> list[int]:
    """Return the runs whose workspaces to remove to meet the quota, oldest first; none that the policy keeps."""
    over = sum(sizes.values()) - quota
    going = []
    for run_id in sorted(sizes):
        if over <= 0:
            break
        if decisions[run_id].may_go and sizes[run_id] > 0:
            going.append(run_id)
            over -= sizes[run_id]
    return going
