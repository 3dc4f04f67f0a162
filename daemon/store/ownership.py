"""Find out who controls a path, so that root does not act on what somebody else put there."""

import contextlib
import errno
import os
import stat
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

from daemon.errors import RefusedError
from daemon.path_owners import command_as, owner_name, places_of
from daemon.store.lock import may_be_state

_OTHERS_WRITE = 0o022
_HANDLE = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
_MOST_LINKS = 40  # as many as Linux follows (path_resolution(7))


def owner_of_state(folder: Path) -> int:
    """Return the uid of whoever a state directory belongs to: of the nearest one above it while it does not exist.

    Only root and that user may own what the path leads through, since its owner can replace what is below. A directory
    of root in which others can write belongs to nobody. Raise RefusedError for both; raise OSError.
    """
    trail = list(_trail(folder))
    last, found = trail[-1]
    owner = found.st_uid
    for place, status in trail:
        if status.st_uid not in {0, owner}:
            other, name = owner_name(status.st_uid), owner_name(owner)
            raise RefusedError(
                f"{last} belongs to {name}, but {other}, who owns {place}, can replace it; run this command as {name} "
                f"(`{command_as(owner)} agentcron ...`), or move the state directory to one of root's"
            )
    if owner == 0 and folder.is_dir() and found.st_mode & _OTHERS_WRITE and any(folder.iterdir()):
        what = f"{folder} belongs to root, but others may write in it (mode {found.st_mode & 0o7777:04o})"
        if not may_be_state(folder):
            raise RefusedError(f"{what}, and it holds no state; set state_dir to a directory that holds nothing else")
        raise RefusedError(
            f"{what}; check its files, then `chmod 0700 {quote(str(folder))}`, or give it to the daemon's user with "
            "chown -R"
        )
    return owner


def open_parent(path: Path, *, create: bool = False) -> tuple[int, str]:
    """Open the directory that a path leads to, and return its descriptor and the name of the file in it.

    Whatever takes the place of a directory afterwards, the file is then created in what was looked at here. Links are
    followed, but for root only its own: raise RefusedError for others. `create` makes directories that are missing;
    raise OSError.
    """
    left = list(reversed(path.absolute().parts[1:]))
    folder, links = os.open("/", _HANDLE), 0
    try:
        while left:
            name = left.pop()
            found = _open_entry(folder, name, is_last=not left, create=create)
            if found is None:
                return folder, name
            if stat.S_ISLNK(os.fstat(found).st_mode):
                links += 1
                target = _followed(path, name, found, links)
                left += reversed([part for part in target.split("/") if part not in {"", "."}])
                found = os.open("/", _HANDLE) if target.startswith("/") else os.dup(folder)
            elif not left:
                os.close(found)
                return folder, name
            os.close(folder)
            folder = found
    except BaseException:
        os.close(folder)
        raise
    os.close(folder)
    raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))


def _open_entry(folder: int, name: str, *, is_last: bool, create: bool) -> int | None:
    """Open an entry of a directory, not what a link leads to; None if there is no last one. Raise OSError."""
    try:
        return os.open(name, _HANDLE, dir_fd=folder)
    except FileNotFoundError:
        if is_last:
            return None
        if not create:
            raise
    with contextlib.suppress(FileExistsError):  # somebody else has just made it
        os.mkdir(name, dir_fd=folder)
    return os.open(name, _HANDLE, dir_fd=folder)


def _followed(path: Path, name: str, link: int, links: int) -> str:
    """Return what an open link leads to, and close it; raise RefusedError if we do not follow it."""
    try:
        owner, target = os.fstat(link).st_uid, os.readlink("", dir_fd=link)
    finally:
        os.close(link)
    if os.geteuid() == 0 and owner != 0:
        raise RefusedError(
            f"{name!r} in {path} is a link that belongs to {owner_name(owner)}, and root does not follow it; "
            "name the file itself"
        )
    if links > _MOST_LINKS:
        raise RefusedError(f"{path} leads through too many links")
    return target


def _trail(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what a path leads through, links and their targets included, up to the last place that exists."""
    try:
        for place in places_of(path):
            yield place, place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RefusedError(f"{path} leads through too many links") from None
