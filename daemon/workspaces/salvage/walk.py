"""Walk a tree that an agent left, however deep it is: one folder is open at a time, and no link or mount is followed.

Standard library only: the helper process imports this.
"""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from daemon.workspaces.openat import grant_access_by_name, open_forcibly, open_path

_UP = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_SEARCHABLE = 0o500
BLOCK = 512
"""Bytes: the unit in which file systems count (stat(2))."""


class UnreadableError(Exception):
    """Something in a workspace cannot be read; the text says what and why."""


@dataclass
class Folder:
    """A folder under the walk; descriptor and path are valid until the walk goes on."""

    descriptor: int
    parts: list[str]
    """The names that lead to it from the root."""
    files: list[str]
    """The entries that are not folders."""
    below: list[str]
    """The folders in it; the walk skips those that are removed from this list."""

    @property
    def path(self) -> Path:
        """Its path, relative to the root."""
        return Path(*self.parts)


def walk(root: Path, *names: str) -> Iterator[Folder]:
    """Yield a folder below a root and all folders in it, each before those that it holds.

    Folders that their owner cannot read are opened up (chmod u+rwx). Raise UnreadableError if one cannot be read, or if
    another file system is mounted on it.
    """
    current = _opened(root, names)
    parts: list[str] = []
    visited: list[tuple[tuple[int, int], list[str]]] = []
    try:
        while True:
            folder = _read(current, parts)
            yield folder
            visited.append((_identity(current), sorted(folder.below, reverse=True)))
            while not visited[-1][1]:
                visited.pop()
                if not visited:
                    return
                parts.pop()
                current = _exchanged(current, os.open("..", _UP, dir_fd=current))
                if _identity(current) != visited[-1][0]:
                    raise UnreadableError(f"{root.joinpath(*parts)} was replaced while it was being read")
            name = visited[-1][1].pop()
            parts.append(name)
            current = _exchanged(current, open_forcibly(current, name))
    except OSError as error:
        raise _unreadable(root.joinpath(*names, *parts), error) from None
    finally:
        os.close(current)


def _opened(root: Path, names: tuple[str, ...]) -> int:
    try:
        return open_path(root, *names)
    except OSError as error:
        raise _unreadable(root.joinpath(*names), error) from None


def _unreadable(path: Path, error: OSError) -> UnreadableError:
    if error.errno == errno.EXDEV:
        return UnreadableError(f"{_shortened(path)} is a mount point")
    return UnreadableError(f"{_shortened(path)}: {error.strerror}")


def _shortened(path: Path) -> str:
    text = str(path)
    return text if len(text) <= 500 else f"{text[:500]}..."  # noqa: PLR2004 - a deep tree has long paths


def _exchanged(old: int, new: int) -> int:
    os.close(old)
    return new


def _identity(folder: int) -> tuple[int, int]:
    found = os.fstat(folder)
    return found.st_dev, found.st_ino


def _read(folder: int, parts: list[str]) -> Folder:
    found = os.fstat(folder)
    if found.st_mode & _SEARCHABLE != _SEARCHABLE and os.geteuid() == found.st_uid:
        os.fchmod(folder, stat.S_IMODE(found.st_mode) | stat.S_IRWXU)
    files: list[str] = []
    below: list[str] = []
    with os.scandir(folder) as entries:
        for entry in entries:
            (below if entry.is_dir(follow_symlinks=False) else files).append(entry.name)
    return Folder(folder, parts, files, below)


def open_up(root: Path) -> None:
    """Give the owner access to every folder and file of a tree; raise UnreadableError where that is impossible."""
    for folder in walk(root):
        for name in folder.files:
            found = os.lstat(name, dir_fd=folder.descriptor)
            if stat.S_ISREG(found.st_mode) and not found.st_mode & stat.S_IRUSR:
                with contextlib.suppress(PermissionError):  # of another owner: whoever reads it reports that
                    grant_access_by_name(folder.descriptor, name)


@dataclass(frozen=True)
class Size:
    """What a tree takes."""

    files: int
    bytes: int
    """On the disk."""


def measure(root: Path, *names: str) -> Size:
    """Return the files in a tree and the bytes that they take on the disk; raise UnreadableError."""
    files = size = 0
    seen: set[tuple[int, int]] = set()
    for folder in walk(root, *names):
        for name in folder.files:
            found = os.lstat(name, dir_fd=folder.descriptor)
            files += 1
            if found.st_nlink == 1 or (found.st_dev, found.st_ino) not in seen:
                size += room_of(found)
            if found.st_nlink > 1:
                seen.add((found.st_dev, found.st_ino))
    return Size(files, size)


def room_of(found: os.stat_result) -> int:
    """Return the bytes that a file takes in an archive: holes take none."""
    return min(found.st_size, found.st_blocks * BLOCK)
