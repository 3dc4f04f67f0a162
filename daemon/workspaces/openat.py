"""Going down a tree of folders that somebody else may change: never through a link, never onto another mount.

Each folder is opened below the one above it by openat2(2); where a sandbox forbids that call, by openat(2) with the
same checks made afterwards. Standard library only: the helper process imports this.
"""

import ctypes
import errno
import os
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _How(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class BadNameError(OSError):
    """A name that is not that of one entry of a folder."""


def check_name(name: str) -> str:
    """Return a name if it is that of one entry of a folder; raise BadNameError else."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise BadNameError(errno.EINVAL, "not the name of a folder", name)
    return name


def open_root(path: Path) -> int:
    """Open a folder that an administrator named, wherever links lead; raise OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_below(folder: int, name: str) -> int:
    """Open a folder in a folder; raise OSError: ELOOP or ENOTDIR for a link, EXDEV for a mount point."""
    check_name(name)
    how = _How(FOLDER, 0, _RESOLVE)
    code = errno.EAGAIN  # what the kernel says where something on the way was renamed meanwhile
    while code == errno.EAGAIN:
        found: int = _LIBC.syscall(_OPENAT2, folder, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return found
        code = ctypes.get_errno()
    if code not in {errno.ENOSYS, errno.EPERM}:
        raise OSError(code, os.strerror(code), name)
    return _open_checked(folder, name)


def _open_checked(folder: int, name: str) -> int:
    found = os.open(name, FOLDER, dir_fd=folder)
    if _mount_of(found) != _mount_of(folder):
        os.close(found)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return found


def _mount_of(descriptor: int) -> str:
    """Return the id of the mount that an open folder lies on (proc(5), fdinfo)."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return next(line for line in text.splitlines() if line.startswith("mnt_id:"))


def open_path(root: Path, *names: str, create: bool = False) -> int:
    """Open a folder below a root, one component at a time; raise OSError. Missing ones can be made on the way."""
    folder = open_root(root)
    try:
        for name in names:
            if create:
                make_folder(folder, name)
            below = open_below(folder, name)
            os.close(folder)
            folder = below
    except BaseException:
        os.close(folder)
        raise
    return folder


def make_folder(folder: int, name: str) -> None:
    """Make a folder in a folder, for its owner alone, unless there is one; raise OSError."""
    try:
        os.mkdir(check_name(name), mode=0o700, dir_fd=folder)
    except FileExistsError:
        return


def names_in(root: Path, *folders: str) -> list[str]:
    """Return what a folder below a root holds, sorted, nothing if there is none; raise OSError."""
    try:
        folder = open_path(root, *folders)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(folder))
    finally:
        os.close(folder)


def free_name(folder: int, name: str, separator: str) -> str:
    """Return a name that nothing in an open folder has: the given one, or one with a number after a separator."""
    taken, number, free = set(os.listdir(folder)), 1, name
    while free in taken:
        number += 1
        free = f"{name}{separator}{number}"
    return free


def open_forcibly(folder: int, name: str) -> int:
    """Open a folder in a folder, giving ourselves the right to read and change it first where we lack it."""
    try:
        found = open_below(folder, name)
    except PermissionError:
        _open_up(folder, name)
        found = open_below(folder, name)
    return found


def _open_up(folder: int, name: str) -> None:
    """Give the owner of a folder all rights to it, by a handle that no link can take the place of."""
    handle = os.open(name, _HANDLE | os.O_DIRECTORY, dir_fd=folder)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
    finally:
        os.close(handle)


def allow_changes(folder: int) -> None:
    """Give the owner of an open folder all rights to it."""
    os.fchmod(folder, 0o700)
