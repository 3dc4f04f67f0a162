"""The names of the folders of workspaces: a run's number, or the place that a schedule keeps for its runs."""

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
