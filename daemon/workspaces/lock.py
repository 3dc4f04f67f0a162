"""Whether a workspace is in use: the supervisor of a run holds a lock on the workspace's folder (flock(2)).

Standard library only: the helper process imports this.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from daemon.workspaces.layout import TOP
from daemon.workspaces.openat import make_folder, open_below, open_forcibly, open_path


class InUseError(Exception):
    """Somebody works in a workspace."""


@contextlib.contextmanager
def unused(state_dir: Path, folders: tuple[str, ...], name: str) -> Iterator[int]:
    """Hold the lock of a workspace that nobody uses, and give its folder; raise InUseError or OSError."""
    parent = open_path(state_dir, *folders)
    try:
        folder = open_forcibly(parent, name)
    finally:
        os.close(parent)
    try:
        try:
            fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno != errno.EWOULDBLOCK:
                raise
            raise InUseError("a process works in it") from None
        yield folder
    finally:
        os.close(folder)


@contextlib.contextmanager
def working_folder(state_dir: Path, place: str, name: str) -> Iterator[Path]:
    """Make a folder for passing work below `environments`, and mark it as in use; raise OSError."""
    above = open_path(state_dir, TOP, place, create=True)
    try:
        fcntl.flock(above, fcntl.LOCK_SH)
        make_folder(above, name)
        folder = open_below(above, name)
        fcntl.flock(folder, fcntl.LOCK_EX)
    finally:
        os.close(above)
    try:
        yield state_dir / TOP / place / name
    finally:
        os.close(folder)


def unused_in(state_dir: Path, place: str) -> list[str]:
    """Return the folders for passing work that nobody uses: those of processes that were cut off."""
    try:
        above = open_path(state_dir, TOP, place)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(above, fcntl.LOCK_EX)
        return [name for name in os.listdir(above) if _is_unused(above, name)]
    finally:
        os.close(above)


def _is_unused(above: int, name: str) -> bool:
    try:
        folder = open_forcibly(above, name)
    except OSError:
        return False
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    else:
        return True
    finally:
        os.close(folder)
