"""A place in memory for the tests' folders: a third of the suite's time is fsync, which costs nothing there."""

import os
import shutil

ENOUGH = 4 * 1024**3
"""Bytes; each state directory has a ballast file of 16 MiB, and a handful are in use at a time."""


def has_room(place: str) -> bool:
    """Return whether the tests' folders fit into a place, and programs in them can be run."""
    if not os.access(place, os.W_OK) or shutil.disk_usage(place).free < ENOUGH:
        return False
    return not os.statvfs(place).f_flag & os.ST_NOEXEC
