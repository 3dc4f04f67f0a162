"""Locks on workspaces: the supervisor of a run holds a lock on the workspace's folder while it is in use (flock(2)).

Standard library only: the helper process imports this.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from daemon.workspaces.layout import ENVIRONMENTS
from daemon.workspaces.openat import make_folder, open_below, open_forcibly, open_path


class InUseError(Exception):
    """A process works in the workspace."""


@contextlib.contextmanager
def locked_workspace(state_dir: Path, parents: tuple[str, ...], name: str) -> Iterator[None]:
    """Hold the lock of a workspace; raise InUseError if somebody else holds it, OSError if it cannot be opened."""
    parent = open_path(state_dir, *parents)
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
        yield
    finally:
        os.close(folder)


@contextlib.contextmanager
def locked_temporary_folder(state_dir: Path, parent: str, name: str) -> Iterator[Path]:
    """Make a temporary folder in a folder of `environments`, and hold its lock; raise OSError."""
    above = open_path(state_dir, ENVIRONMENTS, parent, create=True)
    try:
        fcntl.flock(above, fcntl.LOCK_SH)  # so that `abandoned_folders` cannot see it before it is locked
        make_folder(above, name)
        folder = open_below(above, name)
        fcntl.flock(folder, fcntl.LOCK_EX)
    finally:
        os.close(above)
    try:
        yield state_dir / ENVIRONMENTS / parent / name
    finally:
        os.close(folder)


def abandoned_folders(state_dir: Path, parent: str) -> list[str]:
    """Return the temporary folders that nobody holds a lock on: their processes were killed."""
    try:
        above = open_path(state_dir, ENVIRONMENTS, parent)
    except FileNotFoundError:
        return []
    try:
        fcntl.flock(above, fcntl.LOCK_EX)
        return [name for name in os.listdir(above) if _is_unlocked(above, name)]
    finally:
        os.close(above)


def _is_unlocked(above: int, name: str) -> bool:
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
