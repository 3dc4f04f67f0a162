"""Root working for the daemon's user: with that user's rights, in a folder where that user's agents may plant links."""

import os
import pwd
from pathlib import Path


def become_owner(folder: Path) -> str | None:
    """Go on for good as the user to whom a folder belongs, if we are root; return that user's name if it changed.

    A folder that is not there, or of a user without a name, changes nothing.
    """
    try:
        owner = folder.stat().st_uid
        user = pwd.getpwuid(owner)
    except (OSError, KeyError):
        return None
    if os.geteuid() != 0 or owner == 0:
        return None
    os.initgroups(user.pw_name, user.pw_gid)
    os.setgid(user.pw_gid)
    os.setuid(user.pw_uid)
    os.environ |= {"HOME": user.pw_dir, "USER": user.pw_name}
    return user.pw_name
