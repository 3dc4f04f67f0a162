"""How much room a tree takes on the disk, as `du -s` counts it. Standard library only."""

import os
from pathlib import Path

from daemon.workspaces.descent import open_below, open_path

_BLOCK = 512  # bytes, the unit of st_blocks (stat(2))
_DEEPEST = 100  # folders that are open at once


def room_of(state_dir: Path, folders: tuple[str, ...]) -> int:
    """Return the bytes that a folder below the state directory takes; 0 if there is none, or it is a link.

    A file with several names in it counts once; what lies on other mounts does not count.
    """
    try:
        folder = open_path(state_dir, *folders)
    except OSError:
        return 0
    seen: set[tuple[int, int]] = set()
    try:
        return os.fstat(folder).st_blocks * _BLOCK + _below(folder, seen, 0)
    finally:
        os.close(folder)


def _below(folder: int, seen: set[tuple[int, int]], depth: int) -> int:
    """Return the bytes of all that lies below an open folder; what cannot be read counts as nothing."""
    total = 0
    folders = []
    with os.scandir(folder) as entries:
        for entry in entries:
            try:
                found = entry.stat(follow_symlinks=False)
            except OSError:  # gone meanwhile
                continue
            if found.st_nlink > 1 and not entry.is_dir(follow_symlinks=False):
                if (found.st_dev, found.st_ino) in seen:
                    continue
                seen.add((found.st_dev, found.st_ino))
            total += found.st_blocks * _BLOCK
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
    for name in folders:
        try:
            within = open_below(folder, name)
        except OSError:
            continue
        try:
            total += _below(within, seen, depth + 1) if depth < _DEEPEST else 0
        finally:
            os.close(within)
    return total
