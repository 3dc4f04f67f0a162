"""The ballast: a file that only reserves space, deleted on a full disk so that ended runs can be recorded.

While it is missing, nothing new is started. It is created again as soon as the disk has space.
"""

import os
import stat
from pathlib import Path

from daemon.disk_room import NO_ROOM
from daemon.store.private_file import new_file, open_private

NAME = "ballast"
_GIVEN_UP = "ballast.given-up"
LARGEST = 16 * 1024 * 1024
_SMALL_DISK = 8 * LARGEST  # disks up to this size get no ballast
_SHARE = 4  # it takes at most one part in so many of the free space
LEAST_FREE = 1024 * 1024  # bytes beyond the ballast; with less, nothing is started
_LEAST_FILES = 64  # free inodes; a run needs ten
_COMPRESSED_MTIME = 0
"""The mtime of a ballast in a file system that says it takes less room, as one that compresses; `release` ends it."""


class Ballast:
    """The ballast file of a state directory."""

    def __init__(self, state_dir: Path) -> None:
        """Prepare, without creating the file; raise OSError if the directory cannot be used."""
        self._path = state_dir / NAME
        self._given_up = state_dir / _GIVEN_UP
        disk = os.statvfs(state_dir)
        self._wanted = disk.f_blocks * disk.f_frsize > _SMALL_DISK

    def release(self) -> bool:
        """Free the room of the ballast; return whether there was one.

        A file of its size that takes no room remains: until there is room for a new ballast, also a later daemon starts
        nothing.
        """
        try:
            descriptor = open_private(self._path, os.O_RDWR)
            try:
                size = os.fstat(descriptor).st_size
                os.ftruncate(descriptor, 0)
                os.ftruncate(descriptor, size)
            finally:
                os.close(descriptor)
            self._path.rename(self._given_up)
        except OSError:  # there is none, or the disk accepts no change at all
            return False
        return True

    def has_room(self) -> bool:
        """Return whether something new may be started: the ballast exists, or can be created, with space to spare.

        Raise OSError if the directory cannot be used.
        """
        disk = os.statvfs(self._path.parent)
        if disk.f_files > 0 and disk.f_favail < _LEAST_FILES:
            return False
        if not self._wanted:
            return True
        if self._is_hollow():
            self._path.rename(self._given_up)
        free = disk.f_bavail * disk.f_frsize
        if not os.path.lexists(self._path):
            return free >= self._space_to_create() and self._create(min(LARGEST, free // _SHARE))
        return free >= LEAST_FREE

    def _is_hollow(self) -> bool:
        """Return whether the room of the ballast was freed, but `release` was interrupted before it renamed it."""
        try:
            found = self._path.lstat()
        except FileNotFoundError:
            return False
        is_marked = found.st_mtime_ns == _COMPRESSED_MTIME
        return stat.S_ISREG(found.st_mode) and not is_marked and (found.st_size == 0 or _takes_less(found))

    def _space_to_create(self) -> int:
        """Return how much free space a new ballast needs: at least what the one took that was given up."""
        try:
            given_up = min(self._given_up.lstat().st_size, LARGEST)
            return max(_SHARE * LEAST_FREE, given_up + LEAST_FREE)
        except FileNotFoundError:
            return _SHARE * LEAST_FREE

    def _create(self, size: int) -> bool:
        try:
            with new_file(self._path) as stream:
                os.posix_fallocate(stream.fileno(), 0, size)
                if _takes_less(os.fstat(stream.fileno())):
                    os.utime(stream.fileno(), ns=(_COMPRESSED_MTIME, _COMPRESSED_MTIME))
        except OSError as error:
            if error.errno not in NO_ROOM:
                raise
            self._path.unlink(missing_ok=True)
            return False
        self._given_up.unlink(missing_ok=True)
        return True


def _takes_less(found: os.stat_result) -> bool:
    return found.st_blocks * 512 < found.st_size
