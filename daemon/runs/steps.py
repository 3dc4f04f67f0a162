"""Records where the four steps of a run begin and end: workspace, deliver, work and record.

A command's run gets its workspace first, and is delivered when its supervisor is released. A run of a remote agent
begins with the delivery. Recording lasts from the end of the work to the commit of its outcome.
"""

from datetime import datetime

from daemon.model import Step
from daemon.store.connection import Transaction
from daemon.store.events import begin_step, end_step


def run_claimed(tx: Transaction, run_id: int, now: datetime, *, is_remote: bool) -> None:
    """Begin the first step."""
    begin_step(tx, run_id, Step.DELIVER if is_remote else Step.WORKSPACE, now)


def workspace_ready(tx: Transaction, run_id: int, now: datetime) -> None:
    """End the workspace step and begin the delivery."""
    end_step(tx, run_id, Step.WORKSPACE, now)
    begin_step(tx, run_id, Step.DELIVER, now)


def input_delivered(tx: Transaction, run_id: int, now: datetime, *, has_ended: bool) -> None:
    """End the delivery and begin the work, unless the run has already ended."""
    end_step(tx, run_id, Step.DELIVER, now)
    if not has_ended:
        begin_step(tx, run_id, Step.WORK, now)


def outcome_recorded(tx: Transaction, run_id: int, ended_at: datetime, now: datetime, error: str | None) -> None:
    """End the work at `ended_at`, and the recording of its outcome now."""
    end_step(tx, run_id, Step.WORK, ended_at, error)
    begin_step(tx, run_id, Step.RECORD, ended_at)
    end_step(tx, run_id, Step.RECORD, now)
