"""Which entries of a mirror git could not use: it waits at a pipe for ever, and a link leads it out of the mirror.

Standard library only: the helper process imports this.
"""

import errno
import os
import stat
from pathlib import Path

from daemon.regular_file import open_regular, read_at_most

_NO_TEXT = {errno.ENOENT, errno.ENOTDIR, errno.ELOOP, errno.EINVAL, errno.EFBIG}
_LONGEST_TEXT = 64 * 1024  # bytes: what we write there ourselves is much shorter


def odd_entry(mirror: Path) -> Path | None:
    """Return an entry of a mirror, or the mirror itself, that is neither a regular file nor a folder; None if none is.

    Links are not followed. Folders that cannot be listed are left to git, which reports them.
    """
    try:
        if not stat.S_ISDIR(mirror.lstat().st_mode):
            return mirror
    except FileNotFoundError:
        return None
    folders = [str(mirror)]
    while folders:
        odd, below = _entries(folders.pop())
        if odd is not None:
            return Path(odd)
        folders += below
    return None


def _entries(folder: str) -> tuple[str | None, list[str]]:
    """Return the path of an odd entry of a folder, or None, and the paths of the folders in it."""
    below = []
    try:
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.is_dir(follow_symlinks=False):
                    below.append(entry.path)
                elif not entry.is_file(follow_symlinks=False):
                    return entry.path, []
    except OSError:  # removed meanwhile, or not ours to read
        return None, []
    return None, below


def is_plain(mirror: Path) -> bool:
    """Return whether a mirror exists and holds nothing but regular files and folders."""
    return mirror.is_dir() and odd_entry(mirror) is None


def check_entries(mirror: Path) -> None:
    """Raise OSError if a mirror holds an entry, or is one, that is neither a regular file nor a folder."""
    odd = odd_entry(mirror)
    if odd is not None:
        raise OSError(errno.EINVAL, "neither a regular file nor a folder", str(odd))


def text_of(path: Path) -> str | None:
    """Return the content of a small regular file of a mirror, None if there is none; raise OSError if it is not ours.

    Nothing else is opened: whoever reads this may not have looked for odd entries yet.
    """
    try:
        descriptor = open_regular(path, os.O_NOFOLLOW)
        with open(descriptor, "rb"):
            return read_at_most(descriptor, _LONGEST_TEXT).decode(errors="replace")
    except OSError as error:
        if error.errno in _NO_TEXT:
            return None
        raise
