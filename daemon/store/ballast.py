"""A file that only takes up room: on a full disk it is given up, so that what ends can be recorded.

While it is gone nothing new is started. It is laid down again as soon as the disk has room.
"""

import errno
import os
from pathlib import Path

NAME = "ballast"
LARGEST = 16 * 1024 * 1024
_SMALL_DISK = 8 * LARGEST  # on a disk not larger than that there is no ballast
_SHARE = 4  # of the free room, the part that it takes at most
LEAST_FREE = 1024 * 1024  # bytes beside the ballast: with less nothing is started
_LEAST_FILES = 64  # inodes; a run takes ten
_FULL = {errno.ENOSPC, errno.EDQUOT}


class Ballast:
    """The ballast file of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        """Find out whether an earlier daemon left one; raise OSError where the directory cannot be used."""
        self._path = state_dir / NAME
        disk = os.statvfs(state_dir)
        self._wanted = disk.f_blocks * disk.f_frsize > _SMALL_DISK
        self._room_to_lay = _SHARE * LEAST_FREE

    def release(self) -> bool:
        """Give its room back; return whether there was a ballast."""
        try:
            size = self._path.stat().st_size
            os.truncate(self._path, 0)  # some file systems need room to remove a file
            self._path.unlink()
        except OSError:  # there is none, or the disk takes no change at all
            return False
        self._room_to_lay = size + LEAST_FREE
        return True

    def has_room(self) -> bool:
        """Tell whether something new may be started: the ballast lies there (again), and the disk has more.

        Raise OSError where the directory cannot be used.
        """
        disk = os.statvfs(self._path.parent)
        if disk.f_files > 0 and disk.f_favail < _LEAST_FILES:
            return False
        if not self._wanted:
            return True
        free = disk.f_bavail * disk.f_frsize
        if not self._path.exists():
            return free >= self._room_to_lay and self._lay(min(LARGEST, free // _SHARE))
        return free >= LEAST_FREE

    def _lay(self, size: int) -> bool:
        try:
            descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                os.posix_fallocate(descriptor, 0, size)
            finally:
                os.close(descriptor)
        except OSError as error:
            if error.errno not in _FULL:
                raise
            self._path.unlink(missing_ok=True)
            return False
        return True
