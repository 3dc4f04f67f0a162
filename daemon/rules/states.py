"""The one table of a run's status changes."""

from daemon.model import ACTIVE, RunStatus

_ENDS = frozenset(RunStatus) - ACTIVE
ALLOWED: dict[RunStatus, frozenset[RunStatus]] = {
    # by its hook a run can end between two daemons: delivered by the one, not yet by the other
    RunStatus.PENDING: _ENDS | {RunStatus.RUNNING},
    # back to pending: the daemon went away before the agent was let loose, so the run never began
    RunStatus.RUNNING: _ENDS | {RunStatus.SUSPENDED, RunStatus.PENDING},
    RunStatus.SUSPENDED: _ENDS,
    **dict.fromkeys(_ENDS, frozenset()),
}


def is_allowed(before: RunStatus, after: RunStatus) -> bool:
    """Tell whether a run may go from one status to another; nothing leaves a terminal one."""
    return after in ALLOWED[before]
