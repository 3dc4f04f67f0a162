"""Root working for the daemon's user: with that user's rights, in a folder where that user's agents may plant links."""

import os
import pwd
from pathlib import Path

import typer

from daemon.errors import RefusedError


def become_owner(folder: Path) -> str | None:
    """Go on for good as the user to whom a folder belongs, if we are root; return that user's name if it changed.

    A folder that is not there, or of a user without a name, changes nothing.
    """
    try:
        return become(str(folder.stat().st_uid))
    except OSError:
        return None


def become(account: str) -> str | None:
    """Go on for good as the user of a name or a number, if we are root; return the name if that changed anything.

    A user who is not known, or root, changes nothing. Raise RefusedError if that user cannot go on by this program.
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
    for place in (os.__file__, typer.__file__, __file__):  # Python, what was installed with us, and we
        if not os.access(place, os.R_OK):
            raise RefusedError(f"{user.pw_name} cannot read {place}; install agentcron where its daemon's user can")
    return user.pw_name
