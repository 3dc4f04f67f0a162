"""Open the files of a state directory, in which an agent can put anything; one rule for all of them.

A file is regular, no link, and belongs to the user of this process. It is opened without waiting and read only up to a
bound. SQLite opens the database by itself, so `check_private` looks at that before.
"""

import errno
import os
import stat
from pathlib import Path
from typing import BinaryIO

from daemon.path_owners import owner_name
from daemon.regular_file import open_regular, read_at_most


def new_file(path: Path) -> BinaryIO:
    """Create a private file; raise OSError if anything, even a link, exists there."""
    return open(os.open(path, _NEW, 0o600), "wb")  # noqa: PTH123 - the mode was given with the descriptor


def replace_file(path: Path, content: bytes) -> None:
    """Write a private file atomically, and return once it is on disk; raise OSError."""
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    try:
        with new_file(fresh) as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        fresh.replace(path)
    finally:
        fresh.unlink(missing_ok=True)
    folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(folder)
    finally:
        os.close(folder)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC


def open_private(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open an existing private file; raise OSError if it is anything else than a regular file of our own."""
    descriptor = open_regular(path, flags | os.O_NOFOLLOW)
    try:
        _check_owner(path, os.fstat(descriptor))
    except OSError:
        os.close(descriptor)
        raise
    return descriptor


def open_or_create(path: Path, flags: int) -> int:
    """Open a private file, which is created if there is none; raise as `open_private` does."""
    try:
        return os.open(path, flags | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        return open_private(path, flags)


def read_private(path: Path, most: int) -> bytes:
    """Return the content of a private file; raise OSError as `open_private` does, or if it has over `most` bytes."""
    descriptor = open_private(path)
    try:
        return read_at_most(descriptor, most)
    finally:
        os.close(descriptor)


def check_private(path: Path, owner: int | None = None) -> None:
    """Raise OSError if something exists at a path that `open_private` would refuse; open nothing.

    `owner` is the user that it must belong to, if not that of this process: mounts exist that give all files to one.
    """
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    _check_owner(path, found, owner)


def _check_owner(path: Path, found: os.stat_result, owner: int | None = None) -> None:
    expected = os.geteuid() if owner is None else owner
    if found.st_uid != expected:
        theirs, ours = owner_name(found.st_uid), owner_name(expected)
        raise OSError(errno.EPERM, f"belongs to {theirs}, not to {ours}", str(path))
