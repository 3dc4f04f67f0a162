"""Find out who controls a path, so that root does not act on what somebody else put there."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

from daemon.errors import RefusedError
from daemon.store.private_file import owner_name

_MOST_LINKS = 40  # as many as Linux follows (path_resolution(7))
_OTHERS_WRITE = 0o022


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
                f"(`runuser -u {name} -- agentcron ...`), or move the state directory to one of root's"
            )
    if owner == 0 and folder.is_dir() and found.st_mode & _OTHERS_WRITE and any(folder.iterdir()):
        raise RefusedError(
            f"{folder} belongs to root, but others may write in it (mode {found.st_mode & 0o7777:04o}); "
            f"check its files, then `chmod 0700 {folder}`, or give it to the daemon's user with chown -R"
        )
    return owner


def refuse_links_of_others(path: Path) -> None:
    """Raise RefusedError if root would reach a path through a link that somebody else can change."""
    try:
        trail = list(_trail(path))
    except OSError as error:
        raise RefusedError(f"{error.filename or path} cannot be reached: {error.strerror}") from None
    for place, status in trail:
        if stat.S_ISLNK(status.st_mode) and status.st_uid != 0:
            raise RefusedError(
                f"{place} is a link that belongs to {owner_name(status.st_uid)}, and root does not follow it; "
                "name the file itself"
            )


def _trail(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Yield what a path leads through, links and their targets included, up to the last place that exists."""
    here, links = Path("/"), 0
    yield here, here.lstat()
    waiting = list(reversed(path.absolute().parts[1:]))
    while waiting:
        name = waiting.pop()
        if name == "..":
            here = here.parent
            continue
        place = here / name
        try:
            status = place.lstat()
        except (FileNotFoundError, NotADirectoryError):
            return
        yield place, status
        if not stat.S_ISLNK(status.st_mode):
            here = place
            continue
        links += 1
        if links > _MOST_LINKS:
            raise RefusedError(f"{path} leads through too many links")
        target = place.readlink()
        if target.is_absolute():
            here = Path("/")
        waiting.extend(reversed([part for part in target.parts if part != "/"]))
