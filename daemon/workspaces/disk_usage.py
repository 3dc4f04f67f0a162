"""How much room a tree takes on the disk. Standard library only: the helper process imports this."""

import os
from pathlib import Path

from daemon.workspaces.git import GitError, run_program
from daemon.workspaces.layout import tasks_of
from daemon.workspaces.openat import open_path

_LONGEST = 600.0  # seconds


def room_of(state_dir: Path, folders: tuple[str, ...]) -> int:
    """Return the bytes that a folder below the state directory takes, as du(1) counts them; 0 if there is none.

    A file with several names in it counts once, other file systems do not count, and no link is followed.
    """
    return _counted(state_dir, folders, ["."]).get(".", 0)


def rooms_of(state_dir: Path, environment: str, runs: list[str]) -> dict[str, int]:
    """Return the bytes that the workspaces of some runs take; what cannot be told is left out."""
    return rooms_in(state_dir, tasks_of(environment), runs)


def rooms_in(state_dir: Path, folders: tuple[str, ...], names: list[str]) -> dict[str, int]:
    """Return the bytes that entries of a folder take; what cannot be told is left out."""
    return _counted(state_dir, folders, names) if names else {}


def _counted(state_dir: Path, folders: tuple[str, ...], names: list[str]) -> dict[str, int]:
    """Return what du says of entries of a folder."""
    try:
        folder = open_path(state_dir, *folders)
    except OSError:
        return {}
    try:
        place = Path(f"/proc/self/fd/{folder}")
        said = run_program(["du", "-sx", "-B1", "--", *names], place, _LONGEST).stdout
    except (OSError, GitError):
        return {}
    finally:
        os.close(folder)
    lines = (line.split("\t", 1) for line in os.fsdecode(said).splitlines())
    return {line[1]: int(line[0]) for line in lines if len(line) == 2}  # noqa: PLR2004 - size and name
