"""Describes the run that a due time starts: its name, its display name, and the agent's input and metadata."""

import json

from daemon.model import DueTime, Trigger
from daemon.rules.run_metadata import with_facts
from daemon.store.runs import NewRun
from daemon.store.schedules import ScheduleRow
from daemon.units import format_instant


def run_name(row: ScheduleRow, due: DueTime) -> str:
    """Return the name of the first run of a due time; later attempts append their number."""
    return f"scheduled-run:{row.id}:{format_instant(due)}"


def run_of_fire(
    row: ScheduleRow, due: DueTime, trigger: Trigger, instance: str, *, creator: str | None = None, held: bool = False
) -> NewRun:
    """Describe the run of a due time, with a deterministic name; `creator` defaults to the schedule's creator."""
    at = format_instant(due)
    given = json.loads(row.definition["task_metadata"])
    display_name, metadata = with_facts(given, f"Scheduled Message: {row.name}", trigger, at)
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
        task_metadata=json.dumps({**metadata, "schedule_id": row.id, "scheduled_fire_id": f"{row.id}:{at}"}),
        instance=instance,
        held=held,
    )
