"""Creates the next attempt at a run's work, after a failure or on request."""

import json
from datetime import datetime

from daemon.errors import NotFoundError, RefusedError
from daemon.model import ACTIVE, Trigger
from daemon.store.connection import Transaction
from daemon.store.events import add_event
from daemon.store.runs import NewRun, Run, attempts_of, create_run, get_run, update_run


def next_attempt(
    run: Run, instance: str, *, creator: str, not_before: datetime | None = None, keeps_turn: bool = False
) -> NewRun:
    """Describe the next attempt after a run: the same work under the next name.

    With `keeps_turn` it has the place in the queue that the run had, instead of that of a retry.
    """
    return NewRun(
        name=f"{base_name(run)}:{run.attempt + 1}",
        agent=run.agent,
        schedule_id=run.schedule_id,
        trigger=Trigger.RETRY,
        scheduled_for=run.due,
        display_name=run.display_name,
        creator=creator,
        input_author=run.input_author,
        input_content=run.input_content,
        task_params=run.task_params,
        task_metadata=json.dumps({**json.loads(run.task_metadata), "trigger_type": str(Trigger.RETRY)}),
        instance=instance,
        attempt=run.attempt + 1,
        not_before=not_before,
        previous_run_id=run.id,
        queue_class=run.queue_class if keeps_turn else None,
    )


def base_name(run: Run) -> str:
    """Return the name that all attempts of a fire have in common."""
    return run.name if run.attempt == 1 else run.name.rpartition(":")[0]


def request_retry(tx: Transaction, run_id: int, principal: str, now: datetime, instance: str) -> int:
    """Create the next attempt after an ended run, whose status does not change; return its number.

    Raise RefusedError while any attempt of the same fire is active, and for a run of a deleted schedule.
    """
    run = get_run(tx, run_id)
    if run is None:
        raise NotFoundError(f"no run {run_id}")
    if run.schedule_deleted:
        raise RefusedError(f"the schedule of run {run_id}, {run.address}, was deleted, so it starts nothing any more")
    attempts = attempts_of(tx, base_name(run)) or [run]
    for attempt in attempts:
        if attempt.status in ACTIVE:
            raise RefusedError(f"attempt {attempt.attempt} at the same work, run {attempt.id}, is {attempt.status}")
    newest = max(attempts, key=lambda attempt: attempt.attempt)
    next_id, _ = create_run(tx, next_attempt(newest, instance, creator=principal), now)
    update_run(tx, newest.id, now, next_run_id=next_id)
    add_event(tx, newest.id, now, "retried", {"by": principal, "run_id": next_id})
    return next_id
