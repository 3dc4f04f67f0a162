"""Open folders in a tree that somebody else may change meanwhile, without following a link or crossing a mount.

Each folder is opened relative to its open parent with openat2(2); where a sandbox forbids that call, with openat(2) and
the same checks afterwards. Standard library only: the helper process imports this.
"""

import ctypes
import errno
import os
import stat
from pathlib import Path

_LIBC = ctypes.CDLL(None, use_errno=True)
_OPENAT2 = 437  # the same number on every architecture
_RESOLVE = 0x01 | 0x02 | 0x04 | 0x08  # NO_XDEV, NO_MAGICLINKS, NO_SYMLINKS, BENEATH
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC


class _OpenHow(ctypes.Structure):
    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


class BadNameError(OSError):
    """A text that cannot be the name of a folder's entry."""


def check_name(name: str) -> str:
    """Return a name if it can be that of one entry of a folder; otherwise raise BadNameError."""
    if not name or name in {".", ".."} or "/" in name or "\0" in name:
        raise BadNameError(errno.EINVAL, "not the name of a folder", name)
    return name


def open_root(path: Path) -> int:
    """Open a folder that an administrator configured, following links; raise OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def open_below(folder: int, name: str) -> int:
    """Open a folder in a folder; raise OSError: ELOOP or ENOTDIR for a link, EXDEV for a mount point."""
    check_name(name)
    how = _OpenHow(_FOLDER, 0, _RESOLVE)
    code = errno.EAGAIN  # the kernel returns this if something on the path was renamed meanwhile
    while code == errno.EAGAIN:
        found: int = _LIBC.syscall(_OPENAT2, folder, os.fsencode(name), ctypes.byref(how), ctypes.sizeof(how))
        if found >= 0:
            return found
        code = ctypes.get_errno()
    if code not in {errno.ENOSYS, errno.EPERM}:
        raise OSError(code, os.strerror(code), name)
    return _open_checked(folder, name)


def _open_checked(folder: int, name: str) -> int:
    found = os.open(name, _FOLDER, dir_fd=folder)
    if _mount_of(found) != _mount_of(folder):
        os.close(found)
        raise OSError(errno.EXDEV, os.strerror(errno.EXDEV), name)
    return found


def _mount_of(descriptor: int) -> str:
    """Return the id of the mount that an open folder is on (proc(5), fdinfo)."""
    text = Path(f"/proc/self/fdinfo/{descriptor}").read_text()
    return next(line for line in text.splitlines() if line.startswith("mnt_id:"))


def open_path(root: Path, *names: str, create: bool = False) -> int:
    """Open a folder below a root, one component at a time; raise OSError. `create` makes those that are missing."""
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
    """Make a folder in a folder, accessible only to its owner, unless it exists; raise OSError."""
    try:
        os.mkdir(check_name(name), mode=0o700, dir_fd=folder)
    except FileExistsError:
        return


def names_in(root: Path, *folders: str) -> list[str]:
    """Return the entries of a folder below a root, sorted; none if it does not exist. Raise OSError."""
    try:
        folder = open_path(root, *folders)
    except FileNotFoundError:
        return []
    try:
        return sorted(os.listdir(folder))
    finally:
        os.close(folder)


def free_name(folder: int, name: str, separator: str) -> str:
    """Return a name that is free in an open folder: the given one, or that with a separator and a number."""
    taken, number, free = set(os.listdir(folder)), 1, name
    while free in taken:
        number += 1
        free = f"{name}{separator}{number}"
    return free


def open_forcibly(folder: int, name: str) -> int:
    """Open a folder in a folder, after giving ourselves access to it if we lack it."""
    try:
        found = open_below(folder, name)
    except PermissionError:
        grant_access_by_name(folder, name)
        found = open_below(folder, name)
    return found


def grant_access_by_name(folder: int, name: str) -> None:
    """Give the owner of a folder or file all rights to it, through a handle, so that no link can replace it meanwhile.

    The execute bit of a file is left as it is. Raise OSError.
    """
    handle = os.open(name, _HANDLE, dir_fd=folder)
    try:
        mode = os.fstat(handle).st_mode
        if stat.S_ISLNK(mode):
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), name)
        wanted = stat.S_IRWXU if stat.S_ISDIR(mode) else stat.S_IMODE(mode) | stat.S_IRUSR | stat.S_IWUSR
        os.chmod(f"/proc/self/fd/{handle}", wanted)
    finally:
        os.close(handle)


def grant_owner_access(folder: int) -> None:
    """Give the owner of an open folder all rights to it."""
    os.fchmod(folder, 0o700)
