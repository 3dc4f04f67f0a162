"""Whether a workspace is in use: the supervisor of a run holds a lock on the workspace's folder (flock(2)).

Standard library only: the helper process imports this.
"""

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

from daemon.workspaces.descent import open_below, open_path


class InUseError(Exception):
    """Somebody works in a workspace."""


@contextlib.contextmanager
def unused(state_dir: Path, folders: tuple[str, ...], name: str) -> Iterator[int]:
    """Hold the lock of a workspace that nobody uses, and give its folder; raise InUseError or OSError."""
    parent = open_path(state_dir, *folders)
    try:
        folder = open_below(parent, name)
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
