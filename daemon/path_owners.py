"""What a path leads through, and the names of those to whom that belongs, as messages show them."""

import errno
import grp
import os
import pwd
from collections.abc import Iterator
from pathlib import Path
from shlex import quote

_MOST_LINKS = 40  # as many as Linux follows (path_resolution(7))
_NO_LINK = {errno.EINVAL, errno.ENOENT, errno.ENOTDIR}  # what readlink(2) says of anything else, and of nothing


def places_of(path: Path) -> Iterator[Path]:
    """Yield each directory and link that leads to a file, then the file; each under its own path without links.

    What does not exist is taken for no link. Raise OSError for what cannot be seen, and after too many links (ELOOP).
    """
    current, links = Path("/"), 0
    yield current
    left = list(reversed(path.absolute().parts[1:]))
    while left:
        name = left.pop()
        if name == "..":
            current = current.parent
            continue
        yield current / name
        try:
            target = (current / name).readlink()
        except OSError as error:
            if error.errno not in _NO_LINK:
                raise
            current /= name
            continue
        links += 1
        if links > _MOST_LINKS:
            raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), str(path))
        if target.is_absolute():
            current = Path("/")
        left += reversed([part for part in target.parts if part != "/"])


def owner_name(uid: int) -> str:
    """Return the name of a user, or its number if it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def command_as(uid: int) -> str:
    """Return the beginning of a shell command that root runs as a user, whether or not that has a name."""
    name = owner_name(uid)
    return f"setpriv --reuid={uid} --clear-groups" if " " in name else f"runuser -u {quote(name)} --"


def group_name(gid: int) -> str:
    """Return the name of a group, or its number if it has none."""
    try:
        return grp.getgrgid(gid).gr_name
    except KeyError:
        return f"gid {gid}"
