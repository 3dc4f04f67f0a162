"""Find what was saved from the workspace of a run, among the run's artifacts.

Standard library only: the helper process imports this.
"""

import contextlib
import errno
import json
import os
import shlex
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from daemon.workspaces.jobs import SavedWork
from daemon.workspaces.layout import ARTIFACTS, RUNS
from daemon.workspaces.openat import make_folder, open_forcibly, open_path
from daemon.workspaces.pipe import MessageError, decode
from daemon.workspaces.salvage.repository import read_file
from daemon.workspaces.salvage.walk import UnreadableError, measure

FOLDER = "saved-work"
README = "README.txt"
SUMMARY = "saved.json"
ARCHIVE = "work.tar"
"""What git cannot store."""
LFS = "lfs"
"""Objects of Git LFS, laid out as in `.git/lfs`."""
_LONGEST_STEPS = 512 * 1024  # characters
_WARNING = "# from a file that the agent could have changed; read these commands before you run them:"
_NO_FOLDER = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EXDEV}
"""Errors that say that a folder is missing, or that a file, a link or a mount point is in its place."""


def saved_folders(artifacts: int) -> list[str]:
    """Return the folders with saved work in the open folder of a run's artifacts, oldest first."""
    with os.scandir(artifacts) as entries:
        names = [one.name for one in entries if one.name.startswith(FOLDER) and one.is_dir(follow_symlinks=False)]
    return sorted(names, key=lambda name: (len(name), name))


def saved_bytes(state_dir: Path, run_id: str) -> int:
    """Return the bytes that all saved work of a run takes; raise UnreadableError or OSError."""
    with _artifacts(state_dir, run_id) as artifacts:
        names = saved_folders(artifacts) if artifacts is not None else []
    return sum(measure(state_dir, RUNS, run_id, ARTIFACTS, name).bytes for name in names)


def newest_saved(state_dir: Path, run_id: str) -> SavedWork | None:
    """Return the work that was last saved from the workspace of a run, None if there is none; raise OSError."""
    with _artifacts(state_dir, run_id) as artifacts:
        names = saved_folders(artifacts) if artifacts is not None else []
        for name in reversed(names):
            found = _summary(Path(f"/proc/self/fd/{artifacts}") / name)
            if found is not None:
                place = state_dir / RUNS / run_id / ARTIFACTS / name
                return replace(
                    SavedWork(f"{ARTIFACTS}/{name}", found.commits, found.files, found.ignored),
                    stored=saved_bytes(state_dir, run_id),
                    restore=(f"saved={shlex.quote(str(place))}", *_steps(found.restore)),
                )
    return None


def _steps(found: tuple[str, ...]) -> Iterator[str]:
    """Yield the commands of a summary, with a warning, since agents can write to it; or else one that shows them.

    A command that hides another one behind a line break or an escape sequence is none of ours.
    """
    steps = [step for step in found if not step.startswith("saved=")]
    if steps and sum(map(len, steps)) <= _LONGEST_STEPS and all(map(str.isprintable, steps)):
        yield _WARNING
        yield from steps
    else:
        yield f'cat "$saved"/{README}'


def _summary(folder: Path) -> SavedWork | None:
    try:
        return decode(SavedWork, json.loads(read_file(folder / SUMMARY) or b""))
    except (MessageError, UnreadableError, ValueError, RecursionError):
        return None


@contextlib.contextmanager
def _artifacts(state_dir: Path, run_id: str) -> Iterator[int | None]:
    """Open the folder of a run's artifacts; None if there is none, or something else in its place. Raise OSError."""
    try:
        folder = open_artifacts(state_dir, run_id)
    except OSError as error:
        if error.errno not in _NO_FOLDER:
            raise
        yield None
        return
    try:
        yield folder
    finally:
        os.close(folder)


def open_artifacts(state_dir: Path, run_id: str, *, create: bool = False) -> int:
    """Open the folder of a run's artifacts, after giving ourselves access to it if an agent took that; raise OSError.

    `create` makes it if it is missing.
    """
    above = open_path(state_dir, RUNS, run_id, create=create)
    try:
        if create:
            make_folder(above, ARTIFACTS)
        return open_forcibly(above, ARTIFACTS)
    finally:
        os.close(above)
