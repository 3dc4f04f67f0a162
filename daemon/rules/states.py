"""The table of all status changes that a run may make."""

from daemon.model import ACTIVE, RunStatus

_ENDS = frozenset(RunStatus) - ACTIVE
ALLOWED: dict[RunStatus, frozenset[RunStatus]] = {
    # a hook can end a run that is pending again: one daemon delivered the input, the next one has not yet
    RunStatus.PENDING: _ENDS | {RunStatus.RUNNING},
    # back to pending: the daemon ended before the agent started
    RunStatus.RUNNING: _ENDS | {RunStatus.SUSPENDED, RunStatus.PENDING},
    RunStatus.SUSPENDED: _ENDS,
    **dict.fromkeys(_ENDS, frozenset()),
}


def is_allowed(before: RunStatus, after: RunStatus) -> bool:
    """Return whether a run may change from one status to another; no run leaves a terminal status."""
    return after in ALLOWED[before]
