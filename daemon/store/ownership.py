"""Find out who controls a path, so that root does not act on what somebody else put there."""

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
    try:
        for place in places_of(path):
            yield place, place.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise RefusedError(f"{path} leads through too many links") from None
