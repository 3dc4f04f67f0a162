"""Describes the run that a due time starts: its name, its display name, and the agent's input and metadata."""

import json

from daemon.model import DueTime, Trigger
from daemon.store.runs import NewRun
from daemon.store.schedules import ScheduleRow
from daemon.units import format_instant

OF_A_SCHEDULE = frozenset({"schedule_id", "scheduled_fire_id"})
"""The keys of the metadata of a run that say which schedule started it, and for which due time."""


def run_name(row: ScheduleRow, due: DueTime) -> str:
    """Return the name of the first run of a due time; later attempts append their number."""
    return f"scheduled-run:{row.id}:{format_instant(due)}"


def run_of_fire(
    row: ScheduleRow, due: DueTime, trigger: Trigger, instance: str, *, creator: str | None = None, held: bool = False
) -> NewRun:
    """Describe the run of a due time, with a deterministic name; `creator` defaults to the schedule's creator."""
    at = format_instant(due)
    metadata = json.loads(row.definition["task_metadata"])
    display_name = metadata.get("display_name")
    if not isinstance(display_name, str):
        display_name = f"Scheduled Message: {row.name} · {at[:10]} {at[11:16]} UTC"
    run_metadata = {
        **metadata,
        "display_name": display_name,
        "schedule_id": row.id,
        "scheduled_fire_id": f"{row.id}:{at}",
        "trigger_type": str(trigger),
        "fire_time": at,
    }
    return NewRun(
        name=run_name(row, due),
        agent=row.agent,
        schedule_id=row.id,
        trigger=trigger,
        scheduled_for=due,
        display_name=display_name,
        creator=creator or row.creator,
        input_author=row.definition["input_author"],
        input_content=row.definition["input_content"],
        task_params=row.definition["task_params"],
        task_metadata=json.dumps(run_metadata),
        instance=instance,
        held=held,
    )
