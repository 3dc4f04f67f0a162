"""Logs each committed change of a run's status, and of a pool, and what that means for budgets."""

from datetime import timedelta

import structlog

from daemon.model import RunStatus
from daemon.store.changes import Changes, PoolChange, StatusChange
from daemon.units import format_instant

_LOG = structlog.get_logger()
_WORTH_A_WARNING = {RunStatus.FAILED, RunStatus.INTERRUPTED, RunStatus.CONTINUED_AS_NEW}


def log_changes(changes: Changes) -> None:
    """Log the changes of runs and pools in a committed batch, and which budgets are nearly spent since then."""
    for pool in changes.pools:
        _log_pool(pool)
    for change in changes.statuses:
        _log(change)
    for reason in sorted(changes.labels("budget")):
        _LOG.warning("[run] Budget nearly spent", reason=reason)


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


def _log_pool(change: PoolChange) -> None:
    keys: dict[str, object] = {"pool": change.pool, "reason": change.reason}
    if change.until is not None:
        keys["until"] = format_instant(change.until)
    if change.run_id is not None:
        keys["run_id"] = change.run_id
    if change.principal is not None:
        keys["principal"] = change.principal
    (_LOG.warning if change.what == "closed" else _LOG.info)(f"[pool] Pool {change.what}", **keys)
