"""The metadata that a new run has beside what the person or the schedule gave it."""

from typing import Any

from daemon.model import Trigger

OF_A_SCHEDULE = frozenset({"schedule_id", "scheduled_fire_id"})
"""The keys that say which schedule started a run, and for which due time."""


def with_facts(given: dict[str, Any], title: str, trigger: Trigger, at: str) -> tuple[str, dict[str, Any]]:
    """Return the display name of a run, and its metadata with that, its trigger, and the instant `at` which it is for.

    Whoever gave the metadata may name the run. Else, or if that is no text, the name is the title and the minute.
    """
    name = given.get("display_name")
    if not isinstance(name, str):
        name = f"{title} · {at[:10]} {at[11:16]} UTC"
    return name, {**given, "display_name": name, "trigger_type": str(trigger), "fire_time": at}
