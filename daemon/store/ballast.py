"""A file that only takes up room: on a full disk it is given up, so that what ends can be recorded.

While it is gone nothing new is started. It is laid down again as soon as the disk has room.
"""

import errno
import os
from pathlib import Path

NAME = "ballast"
SIZE = 16 * 1024 * 1024
_SMALL_DISK = 8 * SIZE  # on a disk not larger than that there is no ballast
_LEAST_FREE = 1024 * 1024  # bytes beside the ballast: with less nothing is started
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Ballast:
    """The ballast file of a state directory; each method raises OSError where the directory cannot be used."""

    def __init__(self, state_dir: Path) -> None:
        """Lay the file down where there is room for it."""
        self._path = state_dir / NAME
        disk = os.statvfs(state_dir)
        self._wanted = disk.f_blocks * disk.f_frsize > _SMALL_DISK
        self._laid = self._wanted and self._lay()

    def release(self) -> bool:
        """Give its room back; return whether there was a ballast."""
        if not self._laid:
            return False
        self._laid = False
        self._path.unlink(missing_ok=True)
        return True

    def has_room(self) -> bool:
        """Tell whether something new may be started: the ballast lies there (again), and the disk has more."""
        if not self._wanted:
            return True
        if not self._laid:
            self._laid = self._free() >= SIZE + _LEAST_FREE and self._lay()
        return self._laid and self._free() >= _LEAST_FREE

    def _free(self) -> int:
        disk = os.statvfs(self._path.parent)
        return disk.f_bavail * disk.f_frsize

    def _lay(self) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, SIZE)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._path.unlink(missing_ok=True)
            return False
        return True
