"""Which workspaces a cleanup removes, and why the others stay."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from daemon.model import ACTIVE, RunStatus

ENDED_WELL = frozenset({RunStatus.COMPLETED, RunStatus.CANCELLED})
"""Runs whose workspaces go by age alone."""


@dataclass(frozen=True)
class Candidate:
    """A workspace as the rules look at it."""

    run_id: int
    source: str
    """Whose newest ones are kept: a schedule's."""
    status: RunStatus
    kept: bool
    """Whether a person wants it to stay."""
    ended_at: datetime | None


@dataclass(frozen=True)
class Policy:
    """`[cleanup]` as it holds for one environment."""

    max_age: timedelta
    keep_on_error: bool
    keep_errors: int
    quota: int | None
    quota_warn: float
    salvage_max: int


@dataclass(frozen=True)
class CleanupDecision:
    """What the policy says of one workspace."""

    reason: str
    """Why it stays; if it may go, from when on."""
    may_go: bool
    """Whether the policy lets it go, be it now or later."""
    due: bool = False
    """Whether it goes now."""


def decide_cleanup(
    workspaces: Iterable[Candidate], policy: Policy, now: datetime, max_age: timedelta | None = None
) -> Mapping[int, CleanupDecision]:
    """Return what becomes of the workspaces of one environment, by run; `max_age` overrules the policy's."""
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
    if workspace.status in ACTIVE or workspace.ended_at is None:
        return CleanupDecision("its run is active", may_go=False)
    newer = 0
    if workspace.status not in ENDED_WELL:
        newer = errors.get(workspace.source, 0)
        errors[workspace.source] = newer + 1
    if workspace.kept:
        return CleanupDecision("marked keep", may_go=False)
    if workspace.status not in ENDED_WELL and policy.keep_on_error and newer < policy.keep_errors:
        return CleanupDecision(
            f"{workspace.status}, among the newest {policy.keep_errors} of its schedule", may_go=False
        )
    if now - workspace.ended_at > age:
        return CleanupDecision("old enough to go", may_go=True, due=True)
    return CleanupDecision("younger than max_age", may_go=True)


def beyond_quota(sizes: Mapping[int, int], decisions: Mapping[int, CleanupDecision], quota: int) -> list[int]:
    """Return the runs whose workspaces go so that the rest fits, oldest first; never one that the policy keeps."""
    over = sum(sizes.values()) - quota
    going = []
    for run_id in sorted(sizes):
        if over <= 0:
            break
        if decisions[run_id].may_go and sizes[run_id] > 0:
            going.append(run_id)
            over -= sizes[run_id]
    return going
