"""Open files where somebody else may have put a link, a pipe or a device: regular files only, and without waiting."""

import errno
import os
import stat
from pathlib import Path


def open_regular(path: Path, flags: int = os.O_RDONLY) -> int:
    """Open an existing regular file; raise OSError for anything else.

    Nothing else is opened, because opening alone can wait (a pipe) or have an effect (a device). Add O_NOFOLLOW to
    refuse a link as well.
    """
    follow = not flags & os.O_NOFOLLOW
    if not stat.S_ISREG(path.stat(follow_symlinks=follow).st_mode):
        raise _not_regular(path)
    descriptor = os.open(path, flags | os.O_NONBLOCK | os.O_CLOEXEC)
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):  # it was replaced meanwhile
        os.close(descriptor)
        raise _not_regular(path)
    return descriptor


def read_at_most(descriptor: int, most: int) -> bytes:
    """Return the content of an open file; raise OSError if it has more than `most` bytes."""
    content = b""
    while part := os.pread(descriptor, most + 1 - len(content), len(content)):
        content += part
        if len(content) > most:
            raise OSError(errno.EFBIG, f"larger than {most} bytes")
    return content


def _not_regular(path: Path) -> OSError:
    return OSError(errno.EINVAL, "not a regular file", str(path))
