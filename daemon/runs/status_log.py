"""Logs each committed change of a run's status."""

from datetime import timedelta

import structlog

from daemon.model import RunStatus
from daemon.store.changes import Changes, StatusChange

_LOG = structlog.get_logger()
_WORTH_A_WARNING = {RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.CONTINUED_AS_NEW}


def log_changes(changes: Changes) -> None:
    """Log the status changes of a committed batch."""
    for change in changes.statuses:
        _log(change)


def _log(change: StatusChange) -> None:
    keys: dict[str, object] = {"run_id": change.run_id, "agent": change.agent, "status": str(change.after)}
    if change.schedule:
        keys["schedule"] = change.schedule
    if change.duration is not None:
        keys["duration_ms"] = change.duration // timedelta(milliseconds=1)
    if change.reason:
        keys["error"] = change.reason
    word = "started" if change.after is RunStatus.RUNNING else change.after
    (_LOG.warning if change.after in _WORTH_A_WARNING else _LOG.info)(f"[run] Run {word}", **keys)
