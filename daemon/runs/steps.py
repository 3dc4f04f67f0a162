"""The four steps of a run, workspace, deliver, work and record: where each begins and ends.

A command's run is given its workspace first, and is delivered once its supervisor is released. A run whose agent is
behind a URL begins with the delivery. Recording lasts from the end of the work to the commit of its outcome.
"""

from datetime import datetime

from daemon.model import Step
from daemon.store.connection import Transaction
from daemon.store.events import begin_step, end_step


def run_claimed(tx: Transaction, run_id: int, now: datetime, *, is_remote: bool) -> None:
    """Begin the first step."""
    begin_step(tx, run_id, Step.DELIVER if is_remote else Step.WORKSPACE, now)


def workspace_ready(tx: Transaction, run_id: int, now: datetime) -> None:
    """Go from the workspace to the delivery."""
    end_step(tx, run_id, Step.WORKSPACE, now)
    begin_step(tx, run_id, Step.DELIVER, now)


def input_delivered(tx: Transaction, run_id: int, now: datetime, *, has_ended: bool) -> None:
    """Go from the delivery to the work, unless the run has ended already."""
    end_step(tx, run_id, Step.DELIVER, now)
    if not has_ended:
        begin_step(tx, run_id, Step.WORK, now)


def outcome_recorded(tx: Transaction, run_id: int, ended_at: datetime, now: datetime, error: str | None) -> None:
    """End the work, which ended at an instant before now, and the recording of its outcome."""
    end_step(tx, run_id, Step.WORK, ended_at, error)
    begin_step(tx, run_id, Step.RECORD, ended_at)
    end_step(tx, run_id, Step.RECORD, now)
