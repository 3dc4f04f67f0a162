"""The names of the folders of workspaces: a run's number, or the place that a schedule keeps for its runs."""

from pathlib import Path

TASKS = "tasks"
"""The folder of an environment's workspaces."""
_KEPT = "schedule-"
_DIGITS = 19  # more than the number of any schedule has


def kept_folder(schedule_id: int) -> str:
    """Return the name of the folder in which the runs of a schedule work that keeps one place."""
    return f"{_KEPT}{schedule_id}"


def schedule_of_folder(name: str) -> int | None:
    """Return the schedule whose runs work in a folder of that name, None if it is another folder."""
    number = name.removeprefix(_KEPT)
    is_kept = name.startswith(_KEPT) and number.isascii() and number.isdigit() and len(number) < _DIGITS
    return int(number) if is_kept and name == kept_folder(int(number)) else None


def folder_at(path: str, run_id: int) -> str:
    """Return the name of the folder of a run's workspace, by the path that is recorded of it.

    Only its end counts, because the state directory may have been moved. What was moved out of the folder of workspaces
    is not in the place whose name it still has.
    """
    place = Path(path)
    is_kept = place.parent.name == TASKS and schedule_of_folder(place.name) is not None
    return place.name if is_kept else str(run_id)
