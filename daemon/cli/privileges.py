"""Drop root's rights to those of the daemon's user, whose agents may have planted links in the state directory."""

import os
import pwd
from pathlib import Path

import typer

from daemon.errors import RefusedError


def become_owner(folder: Path) -> str | None:
    """If we are root, become the owner of a directory for good; return the name of the user if it changed.

    A directory that does not exist, or whose owner has no name, changes nothing.
    """
    try:
        return become(str(folder.stat().st_uid))
    except OSError:
        return None


def become(account: str) -> str | None:
    """If we are root, become the user with a name or number for good; return the name of the user if it changed.

    An unknown user, or root, changes nothing. Raise RefusedError if that user has no permission to read this program.
    """
    try:
        user = pwd.getpwuid(int(account)) if account.isdigit() else pwd.getpwnam(account)
    except (KeyError, OverflowError):
        return None
    if os.geteuid() != 0 or user.pw_uid == 0:
        return None
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name}
    for place in (os.__file__, typer.__file__, __file__):  # Python, our dependencies, and agentcron
        if not os.access(place, os.R_OK):
            raise RefusedError(
                f"{user.pw_name} cannot read {place}; install agentcron where the daemon's user can read it"
            )
    return user.pw_name
