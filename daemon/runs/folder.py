"""The folder of a run on disk, and the directory in which its agent works."""

import contextlib
import errno
import os
import re
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.agents.process.agent_report import END_OF_OUTPUT
from daemon.agents.process.spec import INPUT, METADATA, PARAMS
from daemon.agents.process.supervisor import status
from daemon.agents.process.supervisor.files import open_anew
from daemon.agents.process.supervisor.output import LOG
from daemon.config.schema import Config
from daemon.disk_room import NO_ROOM
from daemon.workspaces.layout import ARTIFACTS, RUNS, TEMPORARY
from daemon.workspaces.openat import open_path
from daemon.workspaces.removal import remove_temporary

NUMBER = re.compile(r"[1-9][0-9]{0,17}")
"""The name of a run's folder; what is longer is no number to SQLite."""
_MOST_DELETED = 1000  # files and folders
_MOMENTARY = {*NO_ROOM, errno.EMFILE, errno.ENFILE, errno.ENOMEM}


@dataclass(frozen=True)
class Handed:
    """What a command is handed as files in the run's folder."""

    content: str
    """The input."""
    params: str
    """The parameters, a JSON object as text."""
    metadata: str
    """The metadata, likewise."""


class RunPreparationError(Exception):
    """A run's folder or workspace could not be made; the text says why."""


class FolderRoomError(RunPreparationError):
    """The host has no room for the run's folder now, on the disk or among open files; the run is retried."""


def run_folder(state_dir: Path, run_id: int) -> Path:
    """Return the folder of a run."""
    return state_dir.joinpath("runs", str(run_id))


def runs_with_folders(state_dir: Path) -> set[int]:
    """Return the numbers of the runs that have a folder, as every run that began does."""
    return {int(entry.name) for entry in (state_dir / "runs").iterdir() if NUMBER.fullmatch(entry.name)}


def make_run_folder(
    state_dir: Path,
    run_id: int,
    handed: Handed,
    config: Config,
    environment: str | None,
    record_key: bytes | None = None,
) -> Path | None:
    """Create the run's folder with what its command is handed; return the workspace.

    It is None if it must be cloned for a git environment. `record_key` authenticates the records of the run's
    supervisors (`Work.record_key`).

    Raise RunPreparationError, or FolderRoomError if the run can be retried. A folder left by an earlier attempt to
    create it is reused.
    """
    folder = make_input_folder(state_dir, run_id, handed.content)
    with _preparing(folder):
        _write(folder / PARAMS, handed.params)
        _write(folder / METADATA, handed.metadata)
        for place in (folder / ARTIFACTS, folder / TEMPORARY):
            place.mkdir(mode=0o700, exist_ok=True)
        status.preallocate(str(folder), record_key)
        _check_output(folder / LOG)
        return _workspace(folder, config, environment)


def make_input_folder(state_dir: Path, run_id: int, content: str) -> Path:
    """Create the run's folder with only its input, for a remote agent; raise as `make_run_folder` does."""
    folder = run_folder(state_dir, run_id)
    with _preparing(folder):
        folder.mkdir(mode=0o700, exist_ok=True)
        _write(folder / INPUT, content)
    return folder


def remove_temporary_files(state_dir: Path, run_id: int) -> None:
    """Remove what a run that has ended leaves for nobody: its temporary files, and the end of its output once more.

    A large tree only leaves the run's folder, and the next cleanup deletes it. What an agent put in its place stays, as
    does what cannot be removed: how the run ended must be recorded.
    """
    with contextlib.suppress(OSError):
        remove_temporary(state_dir, (RUNS, str(run_id)), TEMPORARY, _MOST_DELETED)
        if not os.path.lexists(run_folder(state_dir, run_id) / END_OF_OUTPUT):
            return
        folder = open_path(state_dir, RUNS, str(run_id))
        try:
            os.unlink(END_OF_OUTPUT, dir_fd=folder)
        finally:
            os.close(folder)


@contextlib.contextmanager
def _preparing(folder: Path) -> Iterator[None]:
    """Turn an OSError into RunPreparationError, or into FolderRoomError if the cause is temporary."""
    try:
        yield
    except OSError as error:
        kind = FolderRoomError if error.errno in _MOMENTARY else RunPreparationError
        raise kind(f"cannot prepare the run's folder: {error.strerror}: {error.filename or folder}") from None


def _check_output(path: Path) -> None:
    """Raise OSError if something else than a file is where the supervisor will write: it would end at every start."""
    if os.path.lexists(path) and not stat.S_ISREG(path.lstat().st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))


def _workspace(folder: Path, config: Config, environment: str | None) -> Path | None:
    settings = config.environments[environment] if environment else None
    if settings is not None and settings.mode == "local" and settings.path is not None:
        place = config.resolve(settings.path)
        if not place.is_dir():
            raise RunPreparationError(f"environment {environment}: {place} is not a directory")
        return place
    if settings is not None and settings.mode == "git":
        return None
    private = folder / "work"
    private.mkdir(mode=0o700, exist_ok=True)
    return private


def _write(path: Path, content: str) -> None:
    with open(open_anew(str(path)), "wb") as stream:  # noqa: PTH123 - a descriptor
        stream.write(content.encode(errors="surrogateescape"))
