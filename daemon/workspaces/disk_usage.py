"""Measure how much disk space folders take. Standard library only: the helper process imports this."""

import os
from collections.abc import Iterable
from pathlib import Path

from daemon.workspaces.git import GitError, run_program
from daemon.workspaces.layout import tasks_of
from daemon.workspaces.openat import open_path

_TIMEOUT = 600.0  # seconds


def folder_size(state_dir: Path, folders: tuple[str, ...]) -> int:
    """Return the bytes that a folder below the state directory takes, as du(1) counts them; 0 if it does not exist.

    Hard links to one file count once, other file systems do not count, and no symbolic link is followed.
    """
    return _du(state_dir, folders, ["."]).get(".", 0)


def workspace_sizes(state_dir: Path, environment: str, folders: Iterable[str]) -> dict[str, int]:
    """Return the bytes that some workspaces take, without those that cannot be measured."""
    return entry_sizes(state_dir, tasks_of(environment), folders)


def entry_sizes(state_dir: Path, folders: tuple[str, ...], names: Iterable[str]) -> dict[str, int]:
    """Return the bytes that some entries of a folder take, without those that cannot be measured."""
    wanted = list(names)
    return _du(state_dir, folders, wanted) if wanted else {}


def _du(state_dir: Path, folders: tuple[str, ...], names: list[str]) -> dict[str, int]:
    """Return what du(1) prints for some entries of a folder."""
    try:
        folder = open_path(state_dir, *folders)
    except OSError:
        return {}
    try:
        path = Path(f"/proc/self/fd/{folder}")
        output = run_program(["du", "-sx", "-B1", "--", *names], path, _TIMEOUT).stdout
    except (OSError, GitError):
        return {}
    finally:
        os.close(folder)
    lines = (line.split("\t", 1) for line in os.fsdecode(output).splitlines())
    return {line[1]: int(line[0]) for line in lines if len(line) == 2}  # noqa: PLR2004 - size and name
