"""Tell whether there is no room for more: the disk is full, or the quota of this user is used up.

Standard library only: the helper process imports this.
"""

import errno
import os
from pathlib import Path

NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})
"""The errors that say so."""
_LEAST = 64 * 1024  # bytes


def lacks_room(folder: Path) -> bool:
    """Return whether a folder has no room for another small file, of which nothing remains.

    False if that cannot be found out, as on a file system without unnamed files.
    """
    try:
        descriptor = os.open(folder, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            os.posix_fallocate(descriptor, 0, _LEAST)
        finally:
            os.close(descriptor)
    except OSError as error:
        return error.errno in NO_ROOM
    return False
