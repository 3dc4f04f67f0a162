"""Root working for the daemon's user: with that user's rights, in a folder where that user's agents may plant links."""

import os
import pwd
from pathlib import Path


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

    A user who is not known, or root, changes nothing.
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
    return user.pw_name
