"""Open files that an agent may have replaced with a link, a pipe or a folder."""

import errno
import os
import stat


def open_regular(path: str, flags: int = os.O_RDONLY) -> int:
    """Open a regular file without following a link or blocking on a pipe; raise OSError for anything else.

    One that O_CREAT creates is private.
    """
    descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return descriptor


def open_in(folder: str, name: str) -> int:
    """Open a regular file in a folder that is not a link itself; raise OSError for anything else."""
    place = os.open(folder, os.O_PATH | os.O_NOFOLLOW | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        return open_regular(f"/proc/self/fd/{place}/{name}")
    finally:
        os.close(place)


def open_anew(path: str, _: int = 0) -> int:
    """Open a regular file for writing, empty and private, without following a link; raise OSError on failure.

    It can be the opener of `open`, whose flags it ignores.
    """
    return open_regular(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
